"""What cannot be done is refused with the right type of error, which names the value given and what is allowed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gcp_kernels import (
    covariance_pool,
    fused_gcp,
    matrix_log,
    matrix_power,
    newton_schulz_inverse_sqrt,
    newton_schulz_sqrt,
    triu_unvec,
    triu_vec,
)
from gcp_kernels.nn import GCP
from gcp_kernels.ops import backends
from tests.support.public_functions import CASES
from tests.support.refusals import (
    FLOATING,
    NOT_MATRICES,
    NOT_TENSORS,
    UNKNOWN_DTYPES,
    no_integer,
    no_matrices,
    no_tensor,
    refuses,
    too_few,
    unknown_choice,
    unknown_dtype,
)

X = torch.ones(2, 4, 3, 3)
COV = torch.eye(4).expand(2, 4, 4)
FUNCTIONS: dict[str, tuple[Callable[..., Any], Tensor]] = {
    "fused_gcp": (fused_gcp, X),
    "covariance_pool": (covariance_pool, X),
    "newton_schulz_sqrt": (newton_schulz_sqrt, COV),
    "triu_vec": (triu_vec, COV),
    "triu_unvec": (triu_unvec, torch.ones(2, 10)),
}
OF_MATRICES: dict[str, tuple[Callable[..., Any], Tensor]] = {
    "newton_schulz_sqrt": (newton_schulz_sqrt, COV),
    "newton_schulz_inverse_sqrt": (newton_schulz_inverse_sqrt, COV),
    "matrix_power": (matrix_power, COV),
    "matrix_log": (matrix_log, COV),
}
POOLS = (fused_gcp, covariance_pool)


# Every public function, and which of its tensors is wrong.
TENSORS = [(name, which) for name, case in CASES.items() for which in range(len(case.given()))]
# A scale that is not given is ``None``.
OPTIONAL = {("covariance_pool_scaled", 1)}


def call_with(name: str, which: int, wrong: Callable[[Tensor], object]) -> Callable[[], object]:
    """Make a call of the function, all of whose arguments are right but one."""
    given: list[Any] = list(CASES[name].given())
    given[which] = wrong(given[which])
    return lambda: CASES[name].function(*given)


@pytest.mark.parametrize(
    ("name", "which", "given"),
    [(*one, given) for one in TENSORS for given in NOT_TENSORS if given is not None or one not in OPTIONAL],
)
def test_not_a_tensor(name: str, which: int, given: object) -> None:
    with no_tensor(given):
        call_with(name, which, lambda right: given)()


@pytest.mark.parametrize(("name", "which"), TENSORS)
@pytest.mark.parametrize("dtype", UNKNOWN_DTYPES)
def test_dtype_that_is_not_known(name: str, which: int, dtype: torch.dtype) -> None:
    with unknown_dtype(dtype):
        call_with(name, which, lambda right: right.to(dtype))()


@pytest.mark.parametrize(("name", "which"), TENSORS)
def test_nested_tensor(name: str, which: int) -> None:
    with refuses(TypeError, "dense", "nested"):
        call_with(name, which, lambda right: torch.nested.nested_tensor(list(right.unbind(0))))()


@pytest.mark.parametrize(("name", "which"), TENSORS)
def test_sparse_tensor(name: str, which: int) -> None:
    with refuses(TypeError, "dense", "torch.sparse_coo"):
        call_with(name, which, lambda right: right.to_sparse())()


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("shape", [(), (4,), (2, 4)])
def test_features_without_spatial_dimension(pool: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    with refuses(ValueError, str(shape), "(B, C, "):
        pool(torch.ones(shape))


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("shape", [(2, 0, 9), (2, 0, 3, 3), (2, 4, 0), (2, 4, 0, 3), (2, 0, 0), (0, 0, 4), (0, 4, 0)])
def test_no_channels_or_no_positions(pool: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    with refuses(ValueError, str(shape), "at least one"):
        pool(torch.ones(shape))


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("channel_dim", [0, 4, -4, -5, 100])
def test_channel_dim_out_of_range(pool: Callable[..., Tensor], channel_dim: int) -> None:
    with refuses(ValueError, "channel_dim", str(channel_dim), "3", "-1"):
        pool(X, channel_dim=channel_dim)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("channel_dim", [1.0, True, "1", None, (1,)])
def test_channel_dim_of_another_type(pool: Callable[..., Tensor], channel_dim: object) -> None:
    with no_integer("channel_dim", channel_dim):
        pool(X, channel_dim=channel_dim)


ITERATIVE = [(fused_gcp, X), (newton_schulz_sqrt, COV), (newton_schulz_inverse_sqrt, COV)]


@pytest.mark.parametrize(("function", "x"), ITERATIVE)
@pytest.mark.parametrize("n_iter", [0, -1, -5])
def test_no_iterations(function: Callable[..., Tensor], x: Tensor, n_iter: int) -> None:
    with too_few("n_iter", n_iter):
        function(x, n_iter=n_iter)


@pytest.mark.parametrize(("function", "x"), ITERATIVE)
@pytest.mark.parametrize("n_iter", [True, False, 5.0, "5", None])
def test_number_of_iterations_of_another_type(function: Callable[..., Tensor], x: Tensor, n_iter: object) -> None:
    with no_integer("n_iter", n_iter):
        function(x, n_iter=n_iter)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("output", ["tril", "TRIU", "", None, 1, ["triu"]])
def test_unknown_output(pool: Callable[..., Tensor], output: object) -> None:
    with unknown_choice("output", output, "triu", "full"):
        pool(X, output=output)


@pytest.mark.parametrize("name", ["fused_gcp", "covariance_pool", "newton_schulz_sqrt", "newton_schulz_inverse_sqrt"])
@pytest.mark.parametrize("precision", ["low", "FAST", "", 1, torch.float32])
def test_unknown_precision(name: str, precision: object) -> None:
    function, x = {**FUNCTIONS, **OF_MATRICES}[name]
    with unknown_choice("precision", precision, "fast", "high", None):
        function(x, precision=precision)


@pytest.mark.parametrize("name", [*FUNCTIONS, *OF_MATRICES])
@pytest.mark.parametrize("backend", ["cudnn", "Torch", "", 0])
def test_unknown_backend(name: str, backend: object) -> None:
    function, x = {**FUNCTIONS, **OF_MATRICES}[name]
    with unknown_choice("backend", backend, *backends.NAMES):
        function(x, backend=backend)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_forced_backend_that_cannot_run_is_not_replaced(name: str, backend: str) -> None:
    function, x = FUNCTIONS[name]
    operation = "isqrt_pool" if name == "fused_gcp" else name
    reason = backends.BACKENDS[backend].why_not(operation, x.flatten(2) if x.dim() == 4 else x)
    if reason is None:
        pytest.skip(f"{backend} can run {operation} on the CPU here")
    with refuses(RuntimeError, repr(backend), reason, "auto"):
        function(x, backend=backend)
    with refuses(RuntimeError, repr(backend), reason, "auto"):
        function(x.clone().requires_grad_(), backend=backend)


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("given", [2.0, 1, True, [1.0, 1.0, 1.0, 1.0], "x"])
def test_scale_that_is_not_a_tensor(given: object, backend: str | None) -> None:
    with refuses(TypeError, "scale", "Tensor", type(given).__name__):
        covariance_pool(X, scale=given, backend=backend)


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_scale_of_a_dtype_that_is_not_known(dtype: torch.dtype, backend: str | None) -> None:
    with refuses(TypeError, "scale", str(dtype), *FLOATING):
        covariance_pool(X, scale=torch.ones(2, 4).to(dtype), backend=backend)


def test_scale_that_is_sparse() -> None:
    with refuses(TypeError, "scale", "dense", "torch.sparse_coo"):
        covariance_pool(X, scale=torch.ones(2, 4).to_sparse())


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("shape", [(), (4,), (1, 4), (2, 1), (4, 2), (2, 3), (3, 4), (2, 4, 1), (2, 4, 1, 1), (2, 0)])
def test_scale_of_another_shape(shape: tuple[int, ...], backend: str | None) -> None:
    """Nothing is broadcast: a scale for the channels alone is expanded by the caller."""
    with refuses(ValueError, "scale", "(2, 4)", f"got {shape}"):
        covariance_pool(X, scale=torch.ones(shape), backend=backend)
    with refuses(ValueError, "scale", "(2, 4)", f"got {shape}"):
        covariance_pool(X.movedim(1, -1), scale=torch.ones(shape), channel_dim=-1, backend=backend)


@pytest.mark.parametrize("backend", [None, "reference"])
def test_scale_on_another_device(backend: str | None) -> None:
    with refuses(ValueError, "scale", "cpu", "meta"):
        covariance_pool(X, scale=torch.ones(2, 4, device="meta"), backend=backend)
    with refuses(ValueError, "scale", "cpu", "meta"):
        covariance_pool(X.to("meta"), scale=torch.ones(2, 4), backend=backend)


@pytest.mark.parametrize("name", OF_MATRICES)
@pytest.mark.parametrize("shape", NOT_MATRICES)
def test_function_of_what_is_not_a_batch_of_square_matrices(name: str, shape: tuple[int, ...]) -> None:
    with no_matrices(shape):
        OF_MATRICES[name][0](torch.ones(shape))


@pytest.mark.parametrize("shape", [(), (4,), (3, 4), (2, 4, 3), (0, 0), (2, 0, 0)])
def test_triangle_of_what_is_not_square(shape: tuple[int, ...]) -> None:
    with refuses(ValueError, str(shape), "C, C)"):
        triu_vec(torch.ones(shape))


@pytest.mark.parametrize("size", [2, 4, 5, 7, 9, 11, 32895, 32897])
def test_length_that_no_triangle_has(size: int) -> None:
    with refuses(ValueError, str(size), "C(C+1)/2"):
        triu_unvec(torch.ones(2, size))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_vector_without_elements(shape: tuple[int, ...]) -> None:
    with refuses(ValueError, str(shape), "C(C+1)/2"):
        triu_unvec(torch.ones(shape))


def test_options_are_keywords_only() -> None:
    for function, x in FUNCTIONS.values():
        with pytest.raises(TypeError, match="positional"):
            function(x, 5)


@pytest.mark.parametrize(
    ("error", "options", "words"),
    [
        (ValueError, {"in_channels": 0}, ["in_channels", "0", "at least 1"]),
        (ValueError, {"in_channels": -8}, ["in_channels", "-8", "at least 1"]),
        (TypeError, {"in_channels": 8.0}, ["in_channels", "8.0", "int"]),
        (TypeError, {"in_channels": None}, ["in_channels", "None", "int"]),
        (ValueError, {"dim": 0}, ["dim", "0", "at least 1"]),
        (TypeError, {"dim": 4.0}, ["dim", "4.0", "int"]),
        (TypeError, {"dim": True}, ["dim", "True", "int"]),
        (ValueError, {"n_iter": 0}, ["n_iter", "0", "at least 1"]),
        (TypeError, {"n_iter": 2.5}, ["n_iter", "2.5", "int"]),
        (TypeError, {"n_iter": True}, ["n_iter", "True", "int"]),
        (ValueError, {"channel_dim": 0}, ["channel_dim", "0"]),
        (TypeError, {"channel_dim": 1.0}, ["channel_dim", "1.0", "int"]),
        (ValueError, {"output": "tril"}, ["output", "'tril'", "'triu'", "'full'"]),
        (ValueError, {"precision": "low"}, ["precision", "'low'", "'fast'", "'high'"]),
        (ValueError, {"backend": "cudnn"}, ["backend", "'cudnn'", "'triton'", "'torch'"]),
    ],
)
def test_layer_is_not_made(error: type[Exception], options: dict[str, Any], words: list[str]) -> None:
    with refuses(error, *words):
        GCP(**{"in_channels": 8, **options})


@pytest.mark.parametrize("dim", [None, 4])
@pytest.mark.parametrize("shape", [(2, 7, 3, 3), (2, 9, 5), (2, 3, 8)])
def test_layer_is_given_other_channels(dim: int | None, shape: tuple[int, ...]) -> None:
    with refuses(ValueError, "8", str(shape[1]), str(shape)):
        GCP(8, dim)(torch.ones(shape))


@pytest.mark.parametrize("dim", [None, 4])
@pytest.mark.parametrize("shape", [(), (8,), (2, 8)])
def test_layer_is_given_no_spatial_dimension(dim: int | None, shape: tuple[int, ...]) -> None:
    with refuses(ValueError, str(shape)):
        GCP(8, dim)(torch.ones(shape))


@pytest.mark.parametrize("dim", [None, 4])
@pytest.mark.parametrize("channel_dim", [4, -5, -4])
def test_layer_has_a_channel_dim_that_its_input_has_not(dim: int | None, channel_dim: int) -> None:
    with refuses(ValueError, "channel_dim", str(channel_dim)):
        GCP(8, dim, channel_dim=channel_dim)(torch.ones(8, 8, 3, 3))


@pytest.mark.parametrize("dim", [None, 4])
def test_layer_is_given_no_positions(dim: int | None) -> None:
    with refuses(ValueError, "at least one"):
        GCP(8, dim).eval()(torch.ones(2, 8, 0))


@pytest.mark.parametrize("dim", [None, 4])
def test_layer_is_given_what_is_not_a_tensor(dim: int | None) -> None:
    with refuses(TypeError, "Tensor", "list"):
        GCP(8, dim)([[1.0]])
