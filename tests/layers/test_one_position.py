"""A map of one position, or a single token: its covariance is zero, and a layer that trains says so."""

import copy

import pytest
import torch
from torch import nn

import gcp_kernels
from experiments.__main__ import main
from experiments.training.resnets import REDUCTION, build_resnet, check_image_size, check_smallest_share
from gcp_kernels.integrations import replace_pool
from gcp_kernels.nn import GCP, DropCov, MultiHeadCrossCovariance, TokenFusionHead
from gcp_kernels.nn.normalization import NORMALIZATIONS
from tests.support.small_models import CASES

REFUSED = r"more than 1 position.* got shape \(4,.*gradient"

LAYERS = {
    **{f"gcp-{name}": (lambda name=name: GCP(6, dim=None, normalization=name), (6, 1, 1)) for name in NORMALIZATIONS},
    "gcp-reduced": (lambda: GCP(6, dim=4), (6, 1, 1)),
    "gcp-sequence": (lambda: GCP(6, dim=4), (6, 1)),
    "gcp-volume": (lambda: GCP(6, dim=None), (6, 1, 1, 1)),
    "gcp-token": (lambda: GCP(6, dim=4, channel_dim=-1), (1, 6)),
    "gcp-last": (lambda: GCP(6, dim=None, channel_dim=-1), (1, 1, 6)),
    "gcp-middle": (lambda: GCP(6, dim=None, channel_dim=2), (1, 6, 1)),
    "dropcov": (lambda: DropCov(6, dim=None), (6, 1, 1)),
    "dropcov-token": (lambda: DropCov(6, dim=4, channel_dim=-1), (1, 6)),
    "cross": (lambda: MultiHeadCrossCovariance(6, 2, 3), (1, 6)),
    "cross-plain": (lambda: MultiHeadCrossCovariance(6, 2, 3, normalization="none"), (1, 6)),
    "fusion": (lambda: TokenFusionHead(6, MultiHeadCrossCovariance(6, 2, 3), 5), (2, 6)),
    "fusion-registers": (lambda: TokenFusionHead(6, GCP(6, 4, channel_dim=-1), 5, num_prefix_tokens=3), (4, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_in_training_refuses_it(name: str) -> None:
    make, shape = LAYERS[name]
    layer, x = make(), torch.randn(4, *shape)
    with pytest.raises(ValueError, match=REFUSED):
        layer(x)
    assert layer.eval()(x).isfinite().all()


@pytest.mark.parametrize("name", [name for name in LAYERS if "log" not in name and "fusion" not in name])
def test_a_layer_in_evaluation_gives_zeros(name: str) -> None:
    make, shape = LAYERS[name]
    pooled = make().eval()(torch.randn(4, *shape))
    assert torch.equal(pooled, torch.zeros_like(pooled))


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize(
    "function",
    [
        gcp_kernels.fused_gcp,
        gcp_kernels.covariance_pool,
        lambda x, backend: gcp_kernels.dropcov(x, torch.ones(1, 1, 3), training=True, backend=backend),
        lambda x, backend: gcp_kernels.cross_covariance_pool(x.mT, x.mT),
    ],
    ids=["fused_gcp", "covariance_pool", "dropcov", "cross_covariance_pool"],
)
def test_a_function_gives_zeros_with_zero_gradient(function, backend) -> None:
    x = torch.randn(4, 6, 1, requires_grad=True)
    pooled = function(x, backend=backend)
    (gradient,) = torch.autograd.grad(pooled.sum(), x)
    assert torch.equal(pooled, torch.zeros_like(pooled))
    assert torch.equal(gradient, torch.zeros_like(x))


@pytest.mark.parametrize("shape", [(4, 6, 2, 1), (4, 6, 1, 2), (4, 6, 2), (1, 6, 3, 3)])
def test_a_constant_sample_of_more_positions_is_not_refused(shape: tuple[int, ...]) -> None:
    x = torch.ones(shape, requires_grad=True)
    pooled = GCP(6, dim=None)(x)
    pooled.sum().backward()
    assert torch.equal(pooled, torch.zeros_like(pooled))
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_an_empty_batch_is_not_refused() -> None:
    assert GCP(6, dim=None)(torch.randn(0, 6, 2, 2)).shape == (0, 21)


@pytest.mark.parametrize("name", ["torchvision-resnet", "torchvision-mobilenet_v2", "torchvision-shufflenet_v2",
                                  "timm-resnet", "timm-mobilenet_v2"])  # fmt: skip
def test_a_converted_network_refuses_small_images_with_its_stride(name: str) -> None:
    network = replace_pool(CASES[name].build(), num_classes=3, dim=4)
    x = torch.randn(4, 3, 16, 16)
    with pytest.raises(ValueError, match=REFUSED):
        network(x)
    assert network.eval()(x).shape == (4, 3)


def test_transformers_of_one_patch_refuse_to_train() -> None:
    models = pytest.importorskip("torchvision.models")
    vision = models.VisionTransformer(8, patch_size=8, num_layers=1, num_heads=2, hidden_dim=24, mlp_dim=32)
    timm = pytest.importorskip("timm")
    options = {"img_size": 8, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2}
    for transformer in (
        vision,
        timm.create_model("vit_tiny_patch16_224", **options),
        timm.create_model("deit_tiny_distilled_patch16_224", **options),
    ):
        network = replace_pool(transformer, num_classes=3, dim=4).train()
        with pytest.raises(ValueError, match=r"got shape \(4, 1, 24\) with channel_dim=-1"):
            network(torch.randn(4, 3, 8, 8))


def test_the_least_image_of_training_is_that_of_the_network() -> None:
    pytest.importorskip("torchvision")
    least = REDUCTION + 1
    for pool in ("gcp", "dropcov", "power"):
        network = build_resnet("resnet18", pool, 3, seed=0)
        assert network(torch.randn(2, 3, least, least)).shape == (2, 3)
        check_image_size(pool, least)
        with pytest.raises(ValueError, match="more than 1 position"):
            network(torch.randn(2, 3, REDUCTION, REDUCTION))
        with pytest.raises(ValueError, match=f"at least {least} .*got {REDUCTION}"):
            check_image_size(pool, REDUCTION)
    check_image_size("avg", 1)


def test_a_step_that_batch_normalisation_refuses_is_refused_before(tmp_path, capsys) -> None:
    pytest.importorskip("torchvision")
    for name in ("train/cat/0.png", "train/cat/1.png", "train/dog/0.png", "val/cat/0.png", "val/dog/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()  # never read
    options = ["--data", str(tmp_path), "--pool", "avg", "--image-size", "32", "--batch-size", "2", "--device", "cpu"]
    assert main(["train", *options, "--output", str(tmp_path / "run")]) == 2
    assert "a step with one image of 32 pixels" in capsys.readouterr().err
    least = 2 * REDUCTION + 1
    check_smallest_share("avg", least, 1)
    network = build_resnet("resnet18", "avg", 3, seed=0)
    assert network(torch.randn(1, 3, least, least)).shape == (1, 3)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        network(torch.randn(1, 3, least - 1, least - 1))


def test_the_command_refuses_small_images_before_it_begins(tmp_path, capsys) -> None:
    pytest.importorskip("torchvision")
    for name in ("train/cat/0.png", "val/cat/0.png"):  # never read
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    output = tmp_path / "run"
    options = ["--data", str(tmp_path), "--image-size", "16", "--device", "cpu", "--output", str(output)]
    assert main(["train", *options]) == 2
    assert "image_size must be at least 17 for pool='gcp', got 16" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("dynamic", [None, True])
def test_a_compiled_network_keeps_the_check(dynamic: bool | None) -> None:
    torch._dynamo.reset()
    network = nn.Sequential(nn.Conv2d(3, 8, 3), GCP(8, dim=4))
    compiled = torch.compile(copy.deepcopy(network), backend="aot_eager", dynamic=dynamic)
    for size in (5, 7, 4):
        x = torch.randn(2, 3, size, size)
        torch.testing.assert_close(compiled(x), network(x))
    with pytest.raises(ValueError, match="more than 1 position"):
        compiled(torch.randn(2, 3, 3, 3))


def test_an_exported_network_in_training_keeps_the_check() -> None:
    size = torch.export.Dim("size", min=4, max=64)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), GCP(8, dim=4))
    with pytest.raises(ValueError, match="more than 1 position"):
        torch.export.export(network, (torch.randn(2, 3, 3, 3),))
    program = torch.export.export(network, (torch.randn(2, 3, 9, 9),), dynamic_shapes=({2: size, 3: size},)).module()
    for height in (4, 12):
        x = torch.randn(2, 3, height, height)
        torch.testing.assert_close(program(x), network(x))
    with pytest.raises((AssertionError, RuntimeError, ValueError)):
        program(torch.randn(2, 3, 3, 3))
