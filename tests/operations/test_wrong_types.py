"""Every public function, layer and method, with a wrong value in each argument in turn: works, or an error of ours.

An error of ours is a TypeError, ValueError or RuntimeError that the package raises itself and that names the argument.
"""

import inspect
import traceback
from collections.abc import Callable, Iterator
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

import gcp_kernels
from gcp_kernels import analysis, integrations, models
from gcp_kernels import nn as layers
from tests.support.public_functions import CASES

PACKAGE = Path(gcp_kernels.__file__).parent
MAPS, TOKENS = torch.randn(2, 8, 3, 3), torch.randn(2, 5, 8)
LINEAR, TWO = nn.Linear(8, 1), nn.Sequential(nn.ReLU(), nn.ReLU())
SMALL = nn.Conv2d(3, 8, 1)


def linear_loss() -> torch.Tensor:
    return LINEAR.weight.square().sum()


def sum_of(x: torch.Tensor) -> torch.Tensor:
    return x.square().sum()


def difference(output: torch.Tensor, target: object) -> torch.Tensor:
    return output.square().sum()


def resnet() -> nn.Module:
    library = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        return library.ResNet(library.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3)


def converted() -> nn.Module:
    return integrations.replace_pool(resnet(), dim=4).to_empty(device="cpu")


@wraps(models.resnet18)
def resnet18(*args: Any, **options: Any) -> nn.Module:
    pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        return models.resnet18(*args, **options)


def recorder() -> analysis.LandscapeRecorder:
    return analysis.LandscapeRecorder(LINEAR, LINEAR, difference, steps=(1, 2))


# What is called, and right arguments of the kinds that its options have; a function makes those that a call changes.
Right = dict[str, Any]


def tensors_of(name: str) -> Right:
    """Give the tensors that the table of public functions gives this one, by the names of its first arguments."""
    given = [tensor.float() for tensor in CASES[name].given()]
    return dict(zip(inspect.signature(getattr(gcp_kernels, name)).parameters, given, strict=False))


CALLS: dict[str, tuple[Callable[..., Any], Callable[[], Right]]] = {
    **{name: (getattr(gcp_kernels, name), partial(tensors_of, name)) for name in CASES if name in gcp_kernels.__all__},
    "covariance_pool": (gcp_kernels.covariance_pool, lambda: {"x": MAPS, "scale": torch.ones(2, 8)}),
    "dropcov": (
        gcp_kernels.dropcov,
        lambda: {"x": MAPS, "gate_weight": torch.ones(1, 1, 3), "training": True, "mask": torch.ones(2, 8) > 0},
    ),
    "GCP": (layers.GCP, lambda: {"in_channels": 8, "dim": 4}),
    "DropCov": (layers.DropCov, lambda: {"in_channels": 8, "dim": 4}),
    "MultiHeadCrossCovariance": (
        layers.MultiHeadCrossCovariance,
        lambda: {"dim": 8, "num_heads": 2, "head_dim": 3},
    ),
    "TokenFusionHead": (
        layers.TokenFusionHead,
        lambda: {"dim": 8, "pool": layers.MultiHeadCrossCovariance(8, 2, 3), "num_classes": 5},
    ),
    "GCP.forward": (layers.GCP(8, dim=4), lambda: {"x": MAPS}),
    "GCP.forward without reduction": (layers.GCP(8, dim=None), lambda: {"x": MAPS}),
    "DropCov.forward": (layers.DropCov(8, dim=4), lambda: {"x": MAPS}),
    "MultiHeadCrossCovariance.forward": (layers.MultiHeadCrossCovariance(8, 2, 3), lambda: {"tokens": TOKENS}),
    "TokenFusionHead.forward": (
        layers.TokenFusionHead(8, layers.GCP(8, dim=4, channel_dim=-1), 5, "concat"),
        lambda: {"tokens": TOKENS},
    ),
    "rename_reduction_keys": (layers.rename_reduction_keys, lambda: {"state_dict": {"a": 1}}),
    "replace_pool": (integrations.replace_pool, lambda: {"model": resnet()}),
    "load_isqrt_checkpoint": (
        integrations.load_isqrt_checkpoint,
        lambda: {"model": converted(), "state_dict_or_path": converted().state_dict()},
    ),
    "backbone_state_dict": (integrations.backbone_state_dict, lambda: {"model": converted()}),
    "resnet18": (resnet18, dict),
    "evenly_spaced": (analysis.evenly_spaced, lambda: {"first": 0.1, "last": 1.0, "count": 3}),
    "filter_normalized_directions": (analysis.filter_normalized_directions, lambda: {"model": LINEAR, "count": 1}),
    "filter_normalized_surface": (
        analysis.filter_normalized_surface,
        lambda: {"model": LINEAR, "loss": linear_loss, "steps": (1,), "second_steps": (1,)},
    ),
    "hessian_top_eigenvalue": (analysis.hessian_top_eigenvalue, lambda: {"model": LINEAR, "loss": linear_loss}),
    "loss_landscape": (
        analysis.loss_landscape,
        lambda: {"rest": LINEAR, "y": torch.randn(2, 8), "target": None, "loss_fn": difference, "steps": (1.0,)},
    ),
    "preconditioner_view": (
        analysis.preconditioner_view,
        lambda: {"features": MAPS, "losses": {"a": sum_of}, "model": LINEAR},
    ),
    "split": (analysis.split, lambda: {"model": TWO, "after": "0"}),
    "LandscapeRecorder": (
        analysis.LandscapeRecorder,
        lambda: {"stem": LINEAR, "rest": LINEAR, "loss_fn": difference, "model": LINEAR},
    ),
    "LandscapeRecorder.load_state_dict": (
        recorder().load_state_dict,
        lambda: {"state": recorder().state_dict()},
    ),
    "preserved": (lambda modules: analysis.preserved(modules).__enter__(), lambda: {"modules": LINEAR}),
}
WRONG: dict[str, Any] = {
    "None": None, "list": [1.0], "tuple": (1,), "dict": {}, "set": {1}, "str": "x", "bytes": b"x", "object": object(),
    "True": True, "int": 3, "negative": -1, "float": 2.5, "nan": float("nan"), "numpy int": numpy.int64(3),
    "array": numpy.ones((2, 8, 3)), "class": nn.Linear, "layer's class": layers.GCP, "module": SMALL,
    "tensor without dimensions": torch.ones(()), "int tensor": MAPS.long(), "bool tensor": MAPS > 0,
    "double": MAPS.double(), "half": MAPS.half(), "bfloat16": MAPS.bfloat16(), "complex": MAPS.to(torch.complex64),
    "dtype": torch.int64, "sparse": MAPS.to_sparse(), "meta": MAPS.to("meta"),
    "nested": torch.nested.nested_tensor([torch.ones(8, 3), torch.ones(8, 2)]),
}  # fmt: skip
# What a message calls an argument where that is not its name.
CALLED = {
    "steps": "step",
    "state_dict_or_path": "checkpoint",
    "channel_dim": "(2, 3)",
    "features": "x must have a batch",
}
# What a user's own function says of its arguments is not ours.
USERS = ("target", "loss", "rest", "loss_fn", "y")


def arguments(function: Callable[..., Any]) -> list[str]:
    called = function.forward if isinstance(function, nn.Module) else function
    named = inspect.signature(called).parameters.values()
    return [one.name for one in named if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]


def faults(name: str) -> Iterator[str]:
    function, make = CALLS[name]
    function(**make())
    right = make()
    for argument in arguments(function):
        for kind, value in WRONG.items():
            if (argument, kind) == ("device", "int"):  # of a GPU, if it is there
                continue
            try:
                function(**{**right, argument: value})
            except Exception as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                ours = PACKAGE in Path(last.filename).parents and "raise " in (last.line or "")
                named = any(word in str(error) for word in (argument, CALLED.get(argument, argument)))
                refused = ours and named and isinstance(error, (TypeError, ValueError, RuntimeError))
                if not (refused or isinstance(error, OSError) or (not ours and argument in USERS)):
                    yield f"{argument} = {kind}: {type(error).__name__} in {last.filename}:{last.lineno}: {error}"
            else:
                right = make()  # the call may have changed it


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_value_is_refused_by_the_name_of_its_argument(name: str) -> None:
    assert list(faults(name)) == []


def test_everything_public_is_in_the_table() -> None:
    public = {
        name
        for module in (gcp_kernels, layers, integrations, analysis)
        for name in module.__all__
        if callable(getattr(module, name)) and not issubclass_of(getattr(module, name), (Exception, tuple))
    }
    results = {"FeatureGradient", "Landscape", "LandscapeRecord", "PreconditionerView", "Surface", "TopEigenvalue"}
    assert public - results == {name for name in CALLS if "." not in name} - {"resnet18"}


def issubclass_of(value: object, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, type) and issubclass(value, kinds)


@pytest.mark.parametrize("name", [name for name in CALLS if name.endswith(".forward")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_layer_refuses_another_dtype_but_under_autocast(name: str, dtype: torch.dtype) -> None:
    layer, right = CALLS[name]
    given = {argument: value.to(dtype) for argument, value in right().items()}
    message = rf"must have the dtype of the layer's parameters, torch\.float32, got {dtype}"
    with pytest.raises(TypeError, match=message):
        layer(**given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if dtype == torch.float64:
            with pytest.raises(TypeError, match=message):
                layer(**given)
        else:
            assert layer(**given).isfinite().all()


def test_parameters_that_hooks_bring_are_not_judged_by_those_that_are_there() -> None:
    """As offloading and sharding do it: the layer's own parameters are elsewhere until they are used."""
    layer, x = layers.GCP(8, dim=4).eval(), MAPS
    expected = layer(x)
    convolution = layer.conv_dr_block[0]
    weight = convolution.weight
    convolution.weight = nn.Parameter(weight.detach().to("meta"))
    with pytest.raises(ValueError, match="x must be on the device of the layer, meta, got cpu"):
        layer(x)
    convolution.register_forward_pre_hook(lambda module, inputs: setattr(module, "weight", weight))
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("make", [layers.GCP, layers.DropCov])
@pytest.mark.parametrize("options", [{"dtype": torch.int64}, {"dtype": torch.complex64}, {"dtype": "float32"}])
def test_a_layer_has_parameters_of_a_floating_dtype(make: Callable[..., nn.Module], options: Right) -> None:
    with pytest.raises(TypeError, match=r"dtype must be torch\.float16, bfloat16, float32, float64 or None, got"):
        make(8, **options)


@pytest.mark.parametrize("pool", [nn.Linear(8, 8), nn.Identity(), layers.GCP(8, dim=4), nn.Linear, layers.GCP, None])
def test_what_is_no_pooling_of_tokens_is_refused(pool: Any) -> None:
    """A Linear layer's output would be broadcast with B = N, to logits of the wrong shape."""
    with pytest.raises((TypeError, ValueError), match=r"^pool must "):
        layers.TokenFusionHead(8, pool, 10)(torch.randn(5, 6, 8))
