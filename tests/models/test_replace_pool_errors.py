"""What replace_pool refuses, with an error that names it, and before anything in the model is changed."""

import pytest
import torch
from torch import nn

from gcp_kernels.integrations import UnsupportedModelError, replace_pool
from gcp_kernels.integrations.replacement import SUPPORTED
from tests.support.small_models import CASES, Case

RESNET = CASES["torchvision-resnet"]


class OwnNetwork(nn.Sequential):
    """A network of no library."""


def test_a_network_of_no_known_class_is_named_with_what_is_supported() -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        replace_pool(OwnNetwork(nn.Conv2d(3, 8, 3)))
    message = str(raised.value)
    assert "test_replace_pool_errors.OwnNetwork" in message
    for library, classes in SUPPORTED.items():
        assert library in message
        for name in classes:
            assert name in message


def test_other_classes_of_a_library_subclasses_and_wrappers_are_refused() -> None:
    models = pytest.importorskip("torchvision.models")

    class Subclass(models.ResNet):
        pass

    refused = {
        "densenet.DenseNet": models.DenseNet(block_config=(1, 1)),
        "Subclass": Subclass(models.resnet.BasicBlock, [1, 1, 1, 1]),
        "DataParallel": nn.DataParallel(RESNET.build()),
        "OptimizedModule": torch.compile(RESNET.build()),
    }
    for name, model in refused.items():
        with pytest.raises(UnsupportedModelError, match=name):
            replace_pool(model)


@pytest.mark.parametrize("library", list(SUPPORTED))
def test_the_classes_that_errors_name_are_those_with_a_conversion(library: str) -> None:
    pytest.importorskip(library)
    module = pytest.importorskip(f"gcp_kernels.integrations.{library}_models")
    assert tuple(kind.__name__ for kind in module.CONVERSIONS) == SUPPORTED[library]
    assert all(kind.__module__.partition(".")[0] == library for kind in module.CONVERSIONS)


@pytest.mark.parametrize("model", [None, "resnet18", nn.Linear], ids=str)
def test_what_is_no_module_is_a_type_error(model: object) -> None:
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        replace_pool(model)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pool": "average"}, ValueError, "pool must be one of 'gcp', 'dropcov', got 'average'"),
        ({"dim": 0}, ValueError, "dim must be at least 1, got 0"),
        ({"dim": 2.5}, TypeError, "dim must be an int"),
        ({"num_classes": -1}, ValueError, "num_classes must be at least 0, got -1"),
        ({"keep_stride": 1}, TypeError, "keep_stride must be True or False, got 1"),
        ({"class_token": "mean"}, ValueError, "class_token must be one of None, 'sum', 'concat', 'ignore'"),
        ({"class_token": "concat"}, ValueError, "has no class token"),
        ({"output": "full"}, TypeError, "output follows from the model"),
        ({"channel_dim": -1}, TypeError, "channel_dim follows from the model"),
        ({"iterations": 5}, TypeError, "pool='gcp' has no option 'iterations'; it has n_iter, normalization,"),
        ({"n_iter": 0}, ValueError, "n_iter must be at least 1"),
    ],
)
def test_bad_options_leave_the_model_as_it_was(options: dict, error: type[Exception], message: str) -> None:
    model = RESNET.build()
    before = list(model.modules())
    with pytest.raises(error, match=message):
        replace_pool(model, **options)
    assert [a is b for a, b in zip(before, model.modules(), strict=True)] == [True] * len(before)


@pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))
def test_an_option_of_the_layer_that_fails_leaves_the_model_as_it_was(case: Case) -> None:
    model = case.build().eval()
    kind, names, text = type(model), list(model.state_dict()), repr(model)
    x = torch.randn(2, 3, case.image, case.image)
    expected = model(x)
    with pytest.raises(ValueError, match="precision"):
        replace_pool(model, precision="exact", keep_stride=not case.stages)
    assert type(model) is kind
    assert list(model.state_dict()) == names
    assert repr(model) == text
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))
def test_a_model_is_converted_once(case: Case) -> None:
    model = replace_pool(case.build(), dim=4)
    with pytest.raises(ValueError, match=f"covariances already: {case.pool} is a GCP"):
        replace_pool(model, dim=4)


def test_no_stride_to_drop_is_an_error() -> None:
    models = pytest.importorskip("torchvision.models")
    model = models.ResNet(
        models.resnet.Bottleneck, [1, 1, 1, 1], replace_stride_with_dilation=[False, False, True], num_classes=3
    )
    with pytest.raises(ValueError, match="no stride to drop"):
        replace_pool(model, dim=4, keep_stride=False)


def test_a_strided_layer_of_another_kind_is_an_error() -> None:
    model = RESNET.build()
    model.layer4[0].downsample = nn.Sequential(nn.MaxPool2d(2, 2), nn.Conv2d(256, 512, 1))
    with pytest.raises(UnsupportedModelError, match="strided MaxPool2d"):
        replace_pool(model, dim=4, keep_stride=False)


def test_a_classifier_that_is_not_linear_needs_the_number_of_classes() -> None:
    model = RESNET.build()
    model.fc = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"num_classes must be given: .* is a Sequential"):
        replace_pool(model, dim=4)
    assert replace_pool(model, num_classes=3, dim=4).fc.in_features == 10
