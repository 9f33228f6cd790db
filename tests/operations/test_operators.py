"""Every operator of torch.ops.gcp_kernels holds what torch asks of one: schema, fake, autograd, under AOT dispatch."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import gcp_kernels  # noqa: F401  registers the operators
from tests.support import inputs

pytestmark = pytest.mark.versions

OPERATORS = torch.ops.gcp_kernels


def _features(dtype: torch.dtype, device: str) -> Tensor:
    return inputs.relu_features(3, 4, 6, dtype).to(device)


def _channels_last(dtype: torch.dtype, device: str) -> Tensor:
    return _features(dtype, device).mT.contiguous().mT


def _sliced(dtype: torch.dtype, device: str) -> Tensor:
    return inputs.relu_features(3, 8, 13, dtype).to(device)[:, ::2, 1::2]


def _no_samples(dtype: torch.dtype, device: str) -> Tensor:
    return _features(dtype, device)[:0]


# Layout of the features and dtype; the last ones only make matrices and triangles of another dtype.
INPUTS: dict[str, tuple[Callable[[torch.dtype, str], Tensor], torch.dtype]] = {
    "float64": (_features, torch.float64),
    "float32_channels_last": (_channels_last, torch.float32),
    "float16_sliced": (_sliced, torch.float16),
    "bfloat16": (_features, torch.bfloat16),
    "float32_empty_batch": (_no_samples, torch.float32),
}


def _arguments(operator: str, x: Tensor, flags: tuple[bool, ...] = (True, False)) -> Iterator[tuple[Any, ...]]:
    """Yield argument lists of an operator for features ``x`` of shape (B, C, M), for each value of its flags.

    Those with a scale come with one, and without.
    """
    b, c, _ = x.shape
    cov = (x[:, :, :c] @ x[:, :, :c].mT).contiguous()
    vector = torch.randn(b, c * (c + 1) // 2).to(x)
    for flag in flags:
        pooled_grad = vector if flag else torch.randn(b, c, c).to(x).mT
        few = x[..., : c - 1] if flag else x  # positions, of which the iterates are then
        if operator == "isqrt_pool":
            yield few, 3, flag, flag, "default", "auto"
        elif operator == "isqrt_pool_backward":
            _, centre, trace, iterates = OPERATORS.isqrt_pool(few, 3, flag, flag, "default", "auto")
            yield pooled_grad, few, centre, trace, iterates, 3, flag, "default", "auto"
        elif operator == "covariance_pool":
            for scale in (torch.randn(b, c).to(x), None):
                yield x, scale, flag, "default", "auto"
        elif operator == "covariance_pool_backward":
            for scale in (torch.randn(b, c).to(x), None):
                _, centre = OPERATORS.covariance_pool(x, scale, flag, "default", "auto")
                yield pooled_grad, x, scale, centre, flag, "default", "auto"
        elif operator == "newton_schulz_sqrt":
            yield cov, 3, flag, "default", "auto"
        elif operator == "newton_schulz_sqrt_backward":
            _, trace, iterates = OPERATORS.newton_schulz_sqrt(cov, 3, flag, "default", "auto")
            yield torch.randn_like(cov), cov, trace, iterates, 3, "default", "auto"
        elif operator == "newton_schulz_inverse_sqrt":
            yield cov, 3, 0.5 * flag, "default", "auto"
        elif operator == "newton_schulz_inverse_sqrt_backward":
            _, trace = OPERATORS.newton_schulz_inverse_sqrt(cov, 3, 0.5 * flag, "default", "auto")
            yield torch.randn_like(cov), cov, trace, 3, 0.5 * flag, "default", "auto"
        elif operator in ("matrix_power", "matrix_log"):
            yield cov, 0.5 + flag, "auto"
        elif operator in ("matrix_power_backward", "matrix_log_backward"):
            forward = getattr(OPERATORS, operator.removesuffix("_backward"))
            _, eigenvalues, eigenvectors = forward(cov, 0.5 + flag, "auto")
            yield torch.randn_like(cov), cov, eigenvalues, eigenvectors, 0.5 + flag, "auto"
        elif operator in ("power_pool", "log_pool"):
            yield x if flag else x[..., :3], 0.5 + flag, flag, "auto"
        elif operator in ("power_pool_backward", "log_pool_backward"):
            features = x if flag else x[..., :3]  # fewer positions than channels
            forward = getattr(OPERATORS, operator.removesuffix("_backward"))
            _, eigenvalues, eigenvectors = forward(features, 0.5 + flag, flag, "auto")
            yield pooled_grad, features, eigenvalues, eigenvectors, 0.5 + flag, flag, "auto"
        elif operator == "triu_vec":
            yield cov, flag, "auto"
        elif operator == "triu_unvec":
            yield vector, flag, "auto"


COVERED = (
    "covariance_pool",
    "covariance_pool_backward",
    "isqrt_pool",
    "isqrt_pool_backward",
    "log_pool",
    "log_pool_backward",
    "matrix_log",
    "matrix_log_backward",
    "matrix_power",
    "matrix_power_backward",
    "newton_schulz_inverse_sqrt",
    "newton_schulz_inverse_sqrt_backward",
    "newton_schulz_sqrt",
    "newton_schulz_sqrt_backward",
    "power_pool",
    "power_pool_backward",
    "triu_unvec",
    "triu_vec",
)


def test_every_registered_operator_is_checked_here() -> None:
    """Operators that the compiled extension registers for its own backend are implementations, not the public layer."""
    registered = {
        name.removeprefix("gcp_kernels::").partition(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("gcp_kernels::")
    }
    assert registered == set(COVERED)


# opcheck takes a second for each list of arguments: every operator meets two layouts, an operator and its backward
# operator, which are neighbours, different ones. Both values of the flags are for the operators that users call; those
# of a backward operator change with the layout.
OTHERS = list(INPUTS)[1:]
CHECKED = [(name, "float64", flag) for name in COVERED for flag in (True, False) if flag or "_backward" not in name]
CHECKED += [(name, OTHERS[i % len(OTHERS)], i // len(OTHERS) % 2 == 0) for i, name in enumerate(COVERED)]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("operator", "layout", "flag"), CHECKED)
def test_opcheck(operator: str, layout: str, flag: bool, device: str) -> None:
    make, dtype = INPUTS[layout]
    overload = getattr(OPERATORS, operator).default
    differentiated = ("x", "scale", "cov", "grad", "matrix", "vector")
    names = [argument.name for argument in overload._schema.arguments]
    for arguments in _arguments(operator, make(dtype, device), (flag,)):
        leaves = tuple(
            argument.detach().requires_grad_() if name in differentiated and argument is not None else argument
            for name, argument in zip(names, arguments, strict=True)
        )
        torch.library.opcheck(overload, leaves)


@pytest.mark.parametrize("operator", COVERED)
def test_no_output_is_a_view_of_an_input(operator: str, device: str) -> None:
    overload = getattr(OPERATORS, operator).default
    for arguments in _arguments(operator, _features(torch.float32, device)):
        results = overload(*arguments)
        storages = {a.untyped_storage().data_ptr() for a in arguments if isinstance(a, Tensor) and a.numel()}
        results = results if isinstance(results, tuple) else (results,)
        for result in results:
            assert result.numel() == 0 or result.untyped_storage().data_ptr() not in storages
        assert not results[0]._is_view(), "autograd lets no one change the view that an operator returns"


@pytest.mark.parametrize("operator", COVERED)
def test_fake_knows_symbolic_sizes(operator: str) -> None:
    """Shapes may depend on sizes only: the fake runs on sizes that are symbols without specialising any of them."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    overload = getattr(OPERATORS, operator).default
    for arguments in _arguments(operator, _features(torch.float32, "cpu")):
        results = overload(*arguments)
        shape_env = ShapeEnv()
        with FakeTensorMode(shape_env=shape_env) as mode:
            fakes = [
                mode.from_tensor(
                    argument,
                    symbolic_context=StatelessSymbolicContext(
                        dynamic_sizes=[DimDynamic.DYNAMIC] + [DimDynamic.STATIC] * (argument.dim() - 1)
                    ),
                )
                if isinstance(argument, Tensor)
                else argument
                for argument in arguments
            ]
            fake_results = overload(*fakes)
        for real, fake in zip(
            results if isinstance(results, tuple) else (results,),
            fake_results if isinstance(fake_results, tuple) else (fake_results,),
            strict=True,
        ):
            assert isinstance(fake.shape[0], torch.SymInt), "the batch was specialised"
            assert fake.shape[1:] == real.shape[1:]
            assert fake.dtype == real.dtype
