"""What "high" promises, where torch alone does not keep it: with cuSOLVER's eigenvectors, or coarser products."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from gcp_kernels import eigenvalues
from gcp_kernels.analysis import preconditioner_view
from gcp_kernels.commands import selftest
from gcp_kernels.ops import operators
from gcp_kernels.precision import PROMISED_ERRORS
from tests.support.inputs import covariance_matrices
from tests.support.tolerances import relative_error

ROOT = Path(__file__).parents[2]
HIGH = next(arithmetic for arithmetic in selftest.ARITHMETIC if arithmetic.precision == "high")
OF_EIGENVALUES = (*selftest.OF_MATRICES, *selftest.OF_FEATURES)
# Of these the matrices that are decomposed have 32 to 128 rows.
SHAPES = ((2, 128, 49), (1, 67, 49))
# By eight of them nothing but rounding is left to be turned away at 256 rows.
SWEEPS = 10
LAPACK = torch.linalg.eigh

MATMUL = torch.backends.mkldnn.matmul
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "baddbmm_", "addbmm", "mv", "addmv"}


def jacobi(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Decompose symmetric matrices (B, C, C) as cuSOLVER does in float32: every pair in turn rotated until it is zero.

    Pairs without a channel in common are rotated together. What is off in the end are the lengths of the vectors, by
    the rounding of each rotation.
    """
    c = matrix.shape[-1]
    places = list(range(c + c % 2))  # an odd one out has a partner of zeros
    a = torch.nn.functional.pad(matrix, (0, c % 2, 0, c % 2))
    vectors = torch.eye(len(places), dtype=a.dtype).expand_as(a).clone()  # in rows
    for _ in range(SWEEPS):
        for _ in places[1:]:
            p, q = (torch.tensor(half) for half in (places[: len(places) // 2], places[: len(places) // 2 - 1 : -1]))
            beside = a[:, p, q]
            slope = (a[:, q, q] - a[:, p, p]) / (2 * torch.where(beside == 0, 1, beside))
            tangent = torch.where(slope >= 0, 1.0, -1.0) / (slope.abs() + (slope.square() + 1).sqrt())
            tangent = torch.where(beside == 0, 0, tangent)[..., None]
            cosine = 1 / (tangent.square() + 1).sqrt()
            sine = tangent * cosine
            for turned in (a, a.mT, vectors):
                one, other = turned[:, p], turned[:, q]
                turned[:, p], turned[:, q] = cosine * one - sine * other, sine * one + cosine * other
            places = [places[0], places[-1], *places[1:-1]]
    found, order = a.diagonal(dim1=1, dim2=2)[:, :c].sort(1)
    return found, vectors[:, :c, :c].gather(1, order[..., None].expand(-1, -1, c)).mT


def as_on_a_gpu(matrix: Tensor) -> tuple[Tensor, Tensor]:
    return jacobi(matrix) if matrix.dtype == torch.float32 else tuple(LAPACK(matrix))


def errors(operation: str) -> tuple[float, float]:
    found = selftest._checked("torch", "cpu", operation, HIGH)
    assert isinstance(found, tuple), found
    return found


@pytest.fixture
def poor_eigenvectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.linalg, "eigh", as_on_a_gpu)
    monkeypatch.setattr(selftest, "SHAPES", SHAPES)


@pytest.mark.parametrize("operation", OF_EIGENVALUES)
@pytest.mark.usefixtures("poor_eigenvectors")
def test_functions_of_eigenvalues_are_exact_where_the_decomposition_in_float32_is_not(operation: str) -> None:
    assert max(errors(operation)) < PROMISED_ERRORS["high"] / 2


def test_the_decomposition_in_float32_of_a_gpu_would_not_do() -> None:
    cov = covariance_matrices(2, 128, torch.float32)
    root, exact = (
        vectors @ (values.clamp(min=0).sqrt()[..., None] * vectors.mT)
        for values, vectors in (jacobi(cov), LAPACK(cov.double()))
    )
    assert relative_error(root, exact) > PROMISED_ERRORS["high"]


class Decomposed(TorchDispatchMode):
    """Notes the dtype of every matrix that is decomposed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket is torch.ops.aten._linalg_eigh:
            self.found.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("given", [torch.float32, torch.float64])
def test_matrices_are_decomposed_in_float64(device: str, given: torch.dtype) -> None:
    with FakeTensorMode(), Decomposed() as watch:
        values, vectors = eigenvalues.eigh(torch.empty(3, 64, 64, dtype=given, device=device))
    assert watch.found == [torch.float64]
    assert (values.dtype, vectors.dtype) == (given, given)
    assert (values.shape, vectors.shape) == ((3, 64), (3, 64, 64))


@pytest.mark.parametrize("shape", [(4, 4), (2, 5, 5), (2, 3, 6, 6)])
def test_what_is_decomposed_in_float64_is_a_decomposition(shape: tuple[int, ...]) -> None:
    matrix = torch.randn(shape)
    matrix = matrix + matrix.mT
    values, vectors = eigenvalues.eigh(matrix)
    assert values.dtype == vectors.dtype == torch.float32
    torch.testing.assert_close(vectors @ (values[..., None] * vectors.mT), matrix)
    assert bool((values.diff() >= 0).all())


def decompositions() -> Iterator[str]:
    """List the functions that ask torch for eigenvectors or singular vectors, each as file: function."""
    for folder in ("gcp_kernels", "benchmarks", "experiments"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef):
                    calls = (ast.unparse(inner.func) for inner in ast.walk(node) if isinstance(inner, ast.Call))
                    if any(call.endswith((".linalg.eigh", ".linalg.eigvalsh", "linalg.svd")) for call in calls):
                        yield f"{path.relative_to(ROOT).as_posix()}: {node.name}"


def test_eigenvectors_are_found_in_one_place() -> None:
    assert list(decompositions()) == ["gcp_kernels/eigenvalues.py: eigh"]


class Products(TorchDispatchMode):
    """Notes in which arithmetic every float32 product of matrices is allowed to run, by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, set[str]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in PRODUCTS and args[0].dtype == torch.float32:
            self.found.setdefault(name, set()).add(MATMUL.fp32_precision)
        return func(*args, **(kwargs or {}))

    def assert_float32(self) -> None:
        assert self.found
        assert set.union(*self.found.values()) == {"ieee"}, self.found
        assert MATMUL.fp32_precision == "bf16", "what the user has set"


@pytest.fixture
def coarse_products() -> Iterator[None]:
    """Allow coarser products than IEEE float32, as users do; then everything as torch starts with."""
    MATMUL.fp32_precision = "bf16"
    yield
    MATMUL.fp32_precision = "none"


@pytest.mark.parametrize("operation", [name for name in selftest.FUNCTIONS if not name.startswith("triu")])
@pytest.mark.parametrize("shape", [(2, 16, 49), (2, 49, 16)], ids=str)
@pytest.mark.usefixtures("coarse_products")
def test_every_product_of_high_is_one_of_float32(
    operation: str, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Called by way of the dispatcher, an operator would hide its products from the onlooker.
    monkeypatch.setattr(operators, "is_idle", lambda tensors: True)
    function: Callable[..., Tensor] = selftest.FUNCTIONS[operation]
    options = {} if operation in selftest.WITHOUT_PRECISION else {"precision": "high"}
    x = selftest._input(operation, shape).float().requires_grad_()
    with Products() as watch:
        value = function(x, backend="torch", **options)
        torch.autograd.grad(value, x, torch.ones_like(value))
    watch.assert_float32()


@pytest.mark.usefixtures("coarse_products")
def test_products_of_an_analysis_are_those_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "is_idle", lambda tensors: True)
    with Products() as watch:
        preconditioner_view(torch.randn(2, 8, 5, 5), {"sum of squares": lambda x: x.square().sum()})
    watch.assert_float32()
