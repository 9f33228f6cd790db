"""load_isqrt_checkpoint: published layouts into a converted ResNet, which then computes what the published one does."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gcp_kernels import fused_gcp
from gcp_kernels.integrations import CheckpointError, UnsupportedModelError, load_isqrt_checkpoint, replace_pool

CLASSES, DIM = 5, 8


def backbone() -> nn.Module:
    """Build torchvision's ResNet, its stages one block deep."""
    models = pytest.importorskip("torchvision.models")
    return models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=CLASSES)


def converted() -> nn.Module:
    return replace_pool(backbone(), dim=DIM, keep_stride=False)


class PublishedPool(nn.Module):
    """The published pooling layer: reduction, then iSQRT-COV."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_dr_block = nn.Sequential(nn.Conv2d(2048, DIM, 1, bias=False), nn.BatchNorm2d(DIM), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return fused_gcp(self.conv_dr_block(x))


class PublishedNetwork(nn.Module):
    """The layout of published fine-tuning code: features, representation, classifier."""

    def __init__(self, reduction_in_features: bool) -> None:
        super().__init__()
        network = backbone()
        network.layer4[0].conv2.stride = network.layer4[0].downsample[0].stride = (1, 1)
        children = list(network.children())[:-2]
        pool = PublishedPool()
        if reduction_in_features:
            children += list(pool.conv_dr_block)
            pool.conv_dr_block = nn.Sequential()
        self.features = nn.Sequential(*children)
        self.representation = pool
        self.classifier = nn.Linear(DIM * (DIM + 1) // 2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.representation(self.features(x)))


class PublishedPretraining(nn.Module):
    """The layout of published pre-training code: a ResNet with layer_reduce and layer_reduce_bn."""

    def __init__(self) -> None:
        super().__init__()
        self.network = backbone()
        self.network.layer4[0].conv2.stride = self.network.layer4[0].downsample[0].stride = (1, 1)
        self.layer_reduce = nn.Conv2d(2048, DIM, 1, bias=False)
        self.layer_reduce_bn = nn.BatchNorm2d(DIM)
        self.network.fc = nn.Linear(DIM * (DIM + 1) // 2, CLASSES)
        self.network.avgpool = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        network = self.network
        x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
        x = network.layer4(network.layer3(network.layer2(network.layer1(x))))
        return network.fc(fused_gcp(self.layer_reduce_bn(self.layer_reduce(x)).relu()))

    def published_state(self) -> dict[str, Tensor]:
        return {name.removeprefix("network."): tensor for name, tensor in self.state_dict().items()}


def with_statistics(model: nn.Module) -> nn.Module:
    """Set the model to evaluation, with statistics that are not the initial ones."""
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 64, 64))
    return model.eval()


PUBLISHED = {
    "conv_dr_block": lambda: PublishedNetwork(reduction_in_features=False),
    "reduction at the end of features": lambda: PublishedNetwork(reduction_in_features=True),
    "layer_reduce": PublishedPretraining,
}


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return model.published_state() if isinstance(model, PublishedPretraining) else dict(model.state_dict())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("layout", list(PUBLISHED))
def test_published_layouts_give_the_published_logits(layout: str, prefix: str) -> None:
    published = with_statistics(PUBLISHED[layout]())
    model, x = converted().eval(), torch.randn(2, 3, 64, 64)
    state = {prefix + name: tensor for name, tensor in state_of(published).items()}
    assert load_isqrt_checkpoint(model, state) == ([], [])
    torch.testing.assert_close(model(x), published(x))


def test_data_parallel_features_are_found() -> None:
    published = with_statistics(PublishedNetwork(reduction_in_features=False))
    model, x = converted().eval(), torch.randn(2, 3, 64, 64)
    expected = published(x)
    published.features = nn.DataParallel(published.features)
    load_isqrt_checkpoint(model, published.state_dict())
    torch.testing.assert_close(model(x), expected)


# The variant b has the stride of a bottleneck in its 3x3 convolution, as torchvision's has.
@pytest.mark.parametrize(("name", "resnet"), [("isqrtcovresnet18", "resnet18"), ("isqrtcovresnet50b", "resnet50")])
def test_pytorchcv_gives_the_same_logits(name: str, resnet: str) -> None:
    pytest.importorskip("torchvision")
    pytorchcv = pytest.importorskip("pytorchcv.models.isqrtcovresnet")
    from gcp_kernels import models

    theirs = with_statistics(getattr(pytorchcv, name)(num_classes=10))
    ours = getattr(models, resnet)(num_classes=10).eval()
    load_isqrt_checkpoint(ours, theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(x)
        assert (ours(x) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_timm_resnet_takes_the_same_checkpoint() -> None:
    timm = pytest.importorskip("timm")
    published = with_statistics(PublishedNetwork(reduction_in_features=False))
    model = timm.create_model("resnet50", layers=(1, 1, 1, 1), num_classes=CLASSES)
    model = replace_pool(model, dim=DIM, keep_stride=False).eval()
    load_isqrt_checkpoint(model, published.state_dict())
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(x), published(x))


def test_a_file_of_training_is_read_without_running_code(tmp_path: Path) -> None:
    published = with_statistics(PublishedPretraining())
    model, x = converted().eval(), torch.randn(2, 3, 64, 64)
    checkpoint = {"epoch": 65, "arch": "mpncovresnet50", "state_dict": OrderedDict(published.published_state())}
    torch.save(checkpoint, tmp_path / "checkpoint.pth.tar")
    load_isqrt_checkpoint(model, tmp_path / "checkpoint.pth.tar")
    torch.testing.assert_close(model(x), published(x))
    torch.save({"state_dict": published.published_state(), "model": published}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match=r"code\.pth cannot be read .* holds .*PublishedPretraining.* be run"):
        load_isqrt_checkpoint(model, str(tmp_path / "code.pth"))


def test_batch_counts_that_old_checkpoints_lack_stay() -> None:
    model = converted()
    model.bn1.num_batches_tracked.fill_(7)
    state = {name: tensor for name, tensor in converted().state_dict().items() if "num_batches" not in name}
    assert load_isqrt_checkpoint(model, state) == ([], [])
    assert model.bn1.num_batches_tracked == 7


def test_missing_and_unexpected_names_are_in_the_error_and_nothing_is_loaded() -> None:
    model, other = converted(), converted()
    before = model.conv1.weight.clone()
    state = {f"module.{name}": tensor for name, tensor in other.state_dict().items()}
    state["module.extra.weight"] = torch.zeros(3)
    del state["module.layer2.0.conv1.weight"], state["module.fc.bias"]
    with pytest.raises(RuntimeError) as raised:
        load_isqrt_checkpoint(model, state)
    for name in ("lacks layer2.0.conv1.weight, fc.bias", "no place for module.extra.weight", "ResNet"):
        assert name in str(raised.value)
    assert torch.equal(model.conv1.weight, before)
    keys = load_isqrt_checkpoint(model, state, strict=False)
    assert keys.missing_keys == ["layer2.0.conv1.weight", "fc.bias"]
    assert keys.unexpected_keys == ["module.extra.weight"]
    assert torch.equal(model.conv1.weight, other.conv1.weight)


def test_another_shape_is_an_error_even_if_not_strict() -> None:
    state = replace_pool(backbone(), num_classes=7, dim=DIM, keep_stride=False).state_dict()
    with pytest.raises(RuntimeError, match=r"fc\.weight has shape \(7, 36\), and fc\.weight of the model \(5, 36\)"):
        load_isqrt_checkpoint(converted(), state, strict=False)


def test_two_entries_of_one_name_are_an_error() -> None:
    state = dict(converted().state_dict())
    state["classifier.bias"] = state["fc.bias"]
    with pytest.raises(ValueError, match=r"two entries for 'fc\.bias': 'fc\.bias' and 'classifier\.bias'"):
        load_isqrt_checkpoint(converted(), state)


def test_what_is_no_checkpoint_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="mapping of names to tensors, got list"):
        load_isqrt_checkpoint(converted(), [])
    with pytest.raises(TypeError, match="got a int at 'epoch'"):
        load_isqrt_checkpoint(converted(), {"epoch": 3})


def test_a_model_that_is_no_converted_resnet_is_an_error() -> None:
    with pytest.raises(UnsupportedModelError, match="a ResNet with 0 GCP layers"):
        load_isqrt_checkpoint(backbone(), {})
    with pytest.raises(UnsupportedModelError, match="Sequential"):
        load_isqrt_checkpoint(nn.Sequential(), {})
