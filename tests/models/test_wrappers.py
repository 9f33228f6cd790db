"""Models that are wrapped (compiled, on several devices, averaged) are looked through, or refused by name."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from gcp_kernels.analysis import (
    LandscapeRecorder,
    filter_normalized_surface,
    hessian_top_eigenvalue,
    preconditioner_view,
    preserved,
    split,
)
from gcp_kernels.integrations import (
    CheckpointError,
    UnsupportedModelError,
    backbone_state_dict,
    load_isqrt_checkpoint,
    replace_pool,
)
from gcp_kernels.nn import GCP, MultiHeadCrossCovariance, TokenFusionHead, rename_reduction_keys
from gcp_kernels.wrappers import unwrapped
from tests.support import training_runs

Wrap = Callable[[nn.Module], nn.Module]


@pytest.fixture(scope="module", autouse=True)
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make a group of this process alone, which DistributedDataParallel and both kinds of sharding want."""
    store = tmp_path_factory.mktemp("group") / "store"
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="aot_eager")


def compiled_in_part(model: nn.Module) -> nn.Module:
    for name in ("layer4", "avgpool", "fc"):
        setattr(model, name, compiled(getattr(model, name)))
    return model


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="aot_eager")
    return model


WRAPS: dict[str, Wrap] = {
    "nothing": lambda model: model,
    "compile": compiled,
    "compile in place": compiled_in_place,
    "DataParallel": nn.DataParallel,
    "DDP": DistributedDataParallel,
    "averaged": AveragedModel,
    "compile of DDP": lambda model: compiled(DistributedDataParallel(model)),
    "DDP of compile": lambda model: DistributedDataParallel(compiled(model)),
    "averaged DDP of compile": lambda model: AveragedModel(DistributedDataParallel(compiled(model))),
    "compile of DataParallel of compile": lambda model: compiled(nn.DataParallel(compiled(model))),
}


def sharded(model: nn.Module) -> nn.Module:
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    return fsdp.fully_shard(model, mesh=distributed.init_device_mesh("cpu", (1,)))


def flattened(model: nn.Module) -> nn.Module:
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    return fsdp.FullyShardedDataParallel(model, device_id=torch.device("cpu"))


def resnet() -> nn.Module:
    models = pytest.importorskip("torchvision.models")
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5)


def converted() -> nn.Module:
    return replace_pool(resnet(), dim=8, keep_stride=False)


def values(model: nn.Module) -> list[torch.Tensor]:
    tensors = [*unwrapped(model).parameters(), *unwrapped(model).buffers()]
    return [tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor for tensor in tensors]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("wrap", [*WRAPS.values(), compiled_in_part, sharded], ids=[*WRAPS, "parts", "fully_shard"])
def test_a_checkpoint_is_loaded_into_what_is_wrapped(wrap: Wrap, strict: bool) -> None:
    published = converted()
    model = wrap(converted())
    prefixes = ("", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module.")
    state = {
        f"{prefixes[number % len(prefixes)]}{name}": tensor
        for number, (name, tensor) in enumerate(published.state_dict().items())
    }
    assert load_isqrt_checkpoint(model, state, strict=strict) == ([], [])
    for loaded, expected in zip(values(model), values(published), strict=True):
        assert torch.equal(loaded, expected)


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_a_checkpoint_of_what_is_wrapped_is_loaded(wrap: Wrap) -> None:
    published, model = wrap(converted()), converted()
    assert load_isqrt_checkpoint(model, published.state_dict()) == ([], [])
    for loaded, expected in zip(values(model), values(published), strict=True):
        assert torch.equal(loaded, expected)


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_nothing_that_fits_is_an_error_with_the_names_of_both_sides(wrap: Wrap) -> None:
    model = wrap(converted())
    before = [tensor.clone() for tensor in values(model)]
    for strict in (True, False):
        both = r"this ResNet: it has a\.0, .* and 7 more, and the model conv1\.weight, bn1\.weight, .* more"
        with pytest.raises(CheckpointError, match=both):
            load_isqrt_checkpoint(model, {f"a.{number}": torch.ones(1) for number in range(12)}, strict=strict)
        with pytest.raises(CheckpointError, match=r"it has no entries, and the model conv1\.weight"):
            load_isqrt_checkpoint(model, {}, strict=strict)
        counts = {name: one for name, one in converted().state_dict().items() if name.endswith("num_batches_tracked")}
        with pytest.raises(CheckpointError, match=r"it has bn1\.num_batches_tracked"):
            load_isqrt_checkpoint(model, counts, strict=strict)
    assert all(torch.equal(found, expected) for found, expected in zip(values(model), before, strict=True))


def test_a_model_that_cannot_be_loaded_into_is_refused_by_name() -> None:
    state = converted().state_dict()
    with pytest.raises(TypeError, match=r"sharded by FullyShardedDataParallel, .* got a FullyShardedDataParallel"):
        load_isqrt_checkpoint(flattened(converted()), state)
    part = converted()
    part.layer4 = flattened(part.layer4)
    with pytest.raises(TypeError, match=r"sharded by FullyShardedDataParallel, .* got a ResNet"):
        load_isqrt_checkpoint(part, state)
    with pytest.raises(ValueError, match="on the meta device"):
        load_isqrt_checkpoint(converted().to("meta"), state)
    with pytest.raises(TypeError, match="got the class GCP, not a module of it"):
        load_isqrt_checkpoint(GCP, state)
    with pytest.raises(UnsupportedModelError, match="a GCP with 1 GCP layers"):
        load_isqrt_checkpoint(compiled(GCP(8)), state)


@pytest.mark.parametrize("wrap", [*WRAPS.values(), compiled_in_part], ids=[*WRAPS, "parts"])
def test_the_trunk_of_what_is_wrapped_is_that_of_the_model(wrap: Wrap) -> None:
    model = converted()
    expected = {name: tensor for name, tensor in model.state_dict().items() if name[:2] not in ("av", "fc")}
    state = backbone_state_dict(wrap(model))
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_a_trunk_that_is_sharded_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="model must not be sharded by FullyShardedDataParallel"):
        backbone_state_dict(flattened(converted()))
    with pytest.raises(TypeError, match=r"model must not be sharded, got one with 'conv1\.weight'"):
        backbone_state_dict(sharded(converted()))


@pytest.mark.parametrize("wrap", [w for name, w in WRAPS.items() if name not in ("nothing", "compile in place")])
def test_a_pool_is_replaced_before_the_model_is_wrapped(wrap: Wrap) -> None:
    model = wrap(resnet())
    with pytest.raises(UnsupportedModelError, match=f"got a {type(model).__name__}, .* and wrap it then"):
        replace_pool(model)
    assert isinstance(unwrapped(model).avgpool, nn.AdaptiveAvgPool2d)


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), GCP(4, dim=None), nn.Linear(10, 2)).double()


IMAGES, TARGET = torch.randn(4, 3, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_analyses_of_a_wrapped_model_find_the_same(wrap: Wrap) -> None:
    model = small()
    wrapped = wrap(model)
    inner = unwrapped(wrapped)
    assert type(inner) is nn.Sequential

    def loss_of(network: nn.Module) -> Callable[[], torch.Tensor]:
        return lambda: nn.functional.cross_entropy(network(IMAGES), TARGET)

    # Twice: what was compiled in place has no form of its own to compare with.
    assert hessian_top_eigenvalue(wrapped, loss_of(wrapped)) == hessian_top_eigenvalue(inner, loss_of(inner))
    lines = [filter_normalized_surface(one, loss_of(one), (-1, 0, 1)).losses for one in (wrapped, inner)]
    torch.testing.assert_close(*lines)

    for after in ("1", inner[1], *(name for name, module in wrapped.named_modules() if module is inner[1])):
        stem, rest = split(wrapped, after)
        torch.testing.assert_close(rest(stem(IMAGES)), wrapped(IMAGES))
    recorder = LandscapeRecorder(stem, rest, nn.functional.cross_entropy, steps=(1, 2), every=1, model=wrapped)
    assert recorder.step(IMAGES, TARGET) is not None
    with preserved(wrapped):
        wrapped.eval()
    assert wrapped.training
    view = preconditioner_view(stem(IMAGES), {"loss": lambda y: rest(y).square().sum()}, model=wrapped)
    assert view.gradients["loss"].norm.all()


def test_what_is_sharded_has_no_curvature_or_surface() -> None:
    for shard in (sharded, flattened):
        model = shard(small())
        with pytest.raises(TypeError, match="model must not be sharded"):
            hessian_top_eigenvalue(model, lambda: torch.ones(()))
        with pytest.raises(TypeError, match="model must not be sharded"):
            filter_normalized_surface(model, lambda: torch.ones(()), (1,))
    with pytest.raises(TypeError, match="model must not be sharded"):
        split(flattened(small()), "1")


@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel, DistributedDataParallel])
def test_a_wrapped_pool_is_known_by_what_is_inside(wrap: Wrap) -> None:
    tokens = torch.randn(3, 7, 8)
    head = TokenFusionHead(8, wrap(MultiHeadCrossCovariance(8, 2, 3)), 5)
    assert head(tokens).shape == (3, 5)
    with pytest.raises(ValueError, match="got a GCP with channel_dim=1"):
        TokenFusionHead(8, wrap(GCP(8, dim=4)), 5)


def test_prefixes_stay_where_only_the_reduction_is_renamed() -> None:
    names = ["module._orig_mod.layer_reduce.weight", "_orig_mod.pool.module.layer_reduce_bn.bias"]
    assert list(rename_reduction_keys(dict.fromkeys(names))) == [
        "module._orig_mod.conv_dr_block.0.weight",
        "_orig_mod.pool.module.conv_dr_block.1.bias",
    ]


def test_no_compiler_is_imported_for_models_that_are_not_compiled(tmp_path: Path) -> None:
    program = (
        "import sys, torch; from gcp_kernels import wrappers, analysis; layer = torch.nn.Linear(2, 1)\n"
        "wrappers.unwrapped(torch.nn.DataParallel(layer))\n"
        "analysis.hessian_top_eigenvalue(layer, lambda: layer.weight.square().sum())\n"
        "assert not {'torch._dynamo', 'torch.distributed.fsdp'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=training_runs.environment())
    assert os.listdir(tmp_path) == []
