"""gcp_kernels.models: the ready networks have the published parameters and stride."""

import sys

import pytest
import torch
from torch import nn

from gcp_kernels import models

pytest.importorskip("torchvision")

# Published, in millions: DropCov (NeurIPS 2022), table of ImageNet results.
DROPCOV_PARAMETERS = {"resnet34": 29.6, "resnet50": 32.0, "resnet101": 51.0}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def on_meta(name: str, *arguments: object, **options: object) -> nn.Module:
    with torch.device("meta"):
        return getattr(models, name)(*arguments, **options)


@pytest.mark.parametrize(("name", "millions"), DROPCOV_PARAMETERS.items())
def test_dropcov_has_as_many_parameters_as_published(name: str, millions: float) -> None:
    assert round(parameters(on_meta(name, "dropcov")) / 1e6, 1) == millions


@pytest.mark.parametrize(("name", "millions"), DROPCOV_PARAMETERS.items())
def test_only_128_channels_give_the_published_number_of_parameters(name: str, millions: float) -> None:
    average = on_meta(name, "avg")
    channels = average.fc.in_features
    backbone = parameters(average) - parameters(average.fc)

    def total(dim: int) -> int:
        return backbone + channels * dim + 2 * dim + (dim * (dim + 1) // 2 + 1) * 1000

    assert total(40) == parameters(on_meta(name, dim=40))
    assert [dim for dim in range(16, 513) if round(total(dim) / 1e6, 1) == millions] == [128]


@pytest.mark.parametrize("name", models.__all__)
def test_gcp_reduces_to_256_channels_and_average_pooling_is_torchvision(name: str) -> None:
    from torchvision.models import get_model

    gcp, average = on_meta(name), on_meta(name, "avg")
    channels = average.fc.in_features
    assert gcp.avgpool.dim == 256
    assert gcp.fc.in_features == 32896
    assert gcp.fc.out_features == average.fc.out_features == 1000
    with torch.device("meta"):
        original = get_model(name)
    assert repr(average) == repr(original)
    replaced = 256 * channels + 2 * 256 + 32896 * 1000 - channels * 1000
    assert parameters(gcp) == parameters(original) + replaced


@pytest.mark.parametrize("name", models.__all__)
def test_the_last_stage_has_no_stride(name: str) -> None:
    stage = on_meta(name, num_classes=2, dim=8).layer4
    assert {module.stride for module in stage.modules() if isinstance(module, nn.Conv2d)} == {(1, 1)}
    kept = on_meta(name, num_classes=2, dim=8, keep_stride=True).layer4
    assert (2, 2) in {module.stride for module in kept.modules() if isinstance(module, nn.Conv2d)}


@pytest.mark.parametrize("pool", ["gcp", "dropcov", "avg"])
def test_a_network_trains_and_evaluates(pool: str) -> None:
    options = {} if pool == "avg" else {"dim": 8}
    model = models.resnet18(pool, num_classes=3, **options)
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert model.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 3)
    assert isinstance(models.resnet18(pool, num_classes=0, **options).fc, nn.Identity)


def test_options_reach_the_layer() -> None:
    pool = on_meta("resnet18", num_classes=2, dim=None, n_iter=3, precision="high").avgpool
    assert (pool.dim, pool.n_iter, pool.precision) == (None, 3, "high")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pool": "max"}, ValueError, "pool must be one of 'gcp', 'dropcov', 'avg', got 'max'"),
        ({"num_classes": -1}, ValueError, "num_classes must be at least 0, got -1"),
        ({"num_classes": 2.0}, TypeError, "num_classes must be an int"),
        ({"dim": "256"}, ValueError, "dim must be 'published', None or a number of channels, got '256'"),
        ({"pool": "avg", "dim": 64}, ValueError, "takes no dim"),
        ({"pool": "avg", "n_iter": 3}, ValueError, "takes no n_iter"),
        ({"weights": "DEFAULT"}, TypeError, "weights"),
    ],
)
def test_bad_options_are_errors(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        models.resnet18(**options)


def test_without_torchvision_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match=r'--no-build-isolation --editable "\.\[models\]" in a checkout'):
        models.resnet18()
