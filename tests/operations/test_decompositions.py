"""The operators written in operators of torch: as accurate as the operators, and only where they are asked for."""

import math

import pytest
import torch
from torch import nn

import gcp_kernels
from gcp_kernels.nn import GCP
from gcp_kernels.ops.decompositions import TABLE
from tests.support import inputs, oracle, tolerances
from tests.support.accuracy import DTYPES, name_of

pytestmark = pytest.mark.versions

OPERATORS = torch.ops.gcp_kernels


def decomposed(name, *args):
    result = TABLE[getattr(OPERATORS, name).default](*args)
    return result[0] if isinstance(result, tuple) else result


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize(("c", "m"), [(1, 2), (3, 1), (16, 49), (48, 16), (64, 2)])
def test_pooling_keeps_the_promise_on_both_sides(c, m, dtype):
    x = inputs.relu_features(3, c, m, dtype)
    for n_iter in (1, 2, 3, 5):
        exact = oracle.isqrt_pool(x.double(), n_iter)
        for triu in (True, False):
            pooled = decomposed("isqrt_pool", x, n_iter, triu, False, "default", "auto")
            assert pooled.dtype == dtype
            wanted = gcp_kernels.reference.triu_vec(exact) if triu else exact
            tolerances.assert_promise_kept(pooled, wanted, "high", f"isqrt_pool, {n_iter} iterations")
    cov = decomposed("covariance_pool", x, None, False, "default", "auto")
    tolerances.assert_promise_kept(cov, gcp_kernels.reference.covariance_pool(x.double()), "high", "covariance_pool")
    scale = torch.randn(3, c)
    cov = decomposed("covariance_pool", x, scale, False, "default", "auto")
    wanted = gcp_kernels.reference.covariance_pool(x.double(), scale.double())
    tolerances.assert_promise_kept(cov, wanted, "high", "covariance_pool with a scale")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name_of)
def test_functions_of_matrices_keep_the_promise(dtype):
    reference = gcp_kernels.reference
    cov = torch.stack([*inputs.covariance_matrices(3, 12), torch.diag(torch.arange(12.0, dtype=torch.float64))]).to(
        dtype
    )
    skew = torch.triu(torch.ones(12, 12, dtype=dtype), 1)
    found = {
        "newton_schulz_sqrt": (
            decomposed("newton_schulz_sqrt", cov + skew - skew.mT, 5, False, "default", "auto"),
            reference.newton_schulz_sqrt(cov.double(), 5),
        ),
        "newton_schulz_inverse_sqrt": (
            decomposed("newton_schulz_inverse_sqrt", cov, 5, 0.01, "default", "auto"),
            reference.newton_schulz_inverse_sqrt(cov.double(), 5, 0.01),
        ),
        "matrix_power": (decomposed("matrix_power", cov, 0.5, "auto"), reference.matrix_power(cov.double(), 0.5)),
        "matrix_log": (decomposed("matrix_log", cov, 1e-3, "auto"), reference.matrix_log(cov.double(), 1e-3)),
    }
    for name, (actual, exact) in found.items():
        tolerances.assert_promise_kept(actual, exact, "high", name)


@pytest.mark.parametrize(("c", "m"), [(12, 49), (12, 5)])
def test_functions_of_eigenvalues_of_features(c, m):
    x = inputs.relu_features(2, c, m, torch.float64)
    cov = gcp_kernels.reference.covariance_pool(x)
    for name, function, number in (
        ("power_pool", gcp_kernels.reference.matrix_power, 0.5),
        ("log_pool", gcp_kernels.reference.matrix_log, 1e-3),
    ):
        actual = decomposed(name, x, number, True, "auto")
        tolerances.assert_same_float64(actual, gcp_kernels.reference.triu_vec(function(cov, number)), name)


def test_triangles_are_read_and_written_exactly():
    matrices, c = torch.randn(2, 7, 7), 7
    vectors = torch.randn(2, c * (c + 1) // 2)
    for name, given in (("triu_vec", matrices), ("triu_unvec", vectors)):
        for both in (False, True):
            expected = getattr(OPERATORS, name).default(given, both, "torch")
            torch.testing.assert_close(decomposed(name, given, both, "auto"), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("c", "m"), [(6, 40), (20, 6)])
def test_what_is_constant_gives_zeros_and_nan_stays_in_its_sample(c, m):
    x = inputs.relu_features(4, c, m, torch.float32)
    x[1], x[2, 0, 0], x[3, 0, 0] = 3.7, math.nan, math.inf
    pooled = decomposed("isqrt_pool", x, 5, True, False, "default", "auto")
    assert torch.equal(pooled[1], torch.zeros_like(pooled[1]))
    assert pooled[0].isfinite().all()
    assert pooled[2:].isnan().any(1).all()
    root = decomposed("newton_schulz_sqrt", torch.zeros(1, 4, 4), 5, False, "default", "auto")
    inverse = decomposed("newton_schulz_inverse_sqrt", torch.zeros(1, 4, 4), 5, 0.0, "default", "auto")
    assert not root.any()
    assert not inverse.any()


@pytest.mark.parametrize(("c", "m"), [(6, 40), (20, 6)])
def test_gradients_are_those_of_the_operator_also_where_features_are_constant(c, m):
    x = inputs.relu_features(3, c, m, torch.float64)
    x[1] = 3.7
    cov, grad = x @ x.mT * torch.tensor([1.0, 0.0, 1.0])[:, None, None], torch.randn(3, c, c, dtype=torch.float64)
    for name, given, options in (
        ("isqrt_pool", x, (5, False, False, "default", "auto")),
        ("newton_schulz_sqrt", cov, (5, False, "default", "auto")),
        ("newton_schulz_inverse_sqrt", cov, (5, 0.0, "default", "auto")),
    ):
        found = []
        for function in (TABLE[getattr(OPERATORS, name).default], getattr(OPERATORS, name).default):
            leaf = given.clone().requires_grad_()
            found.append(torch.autograd.grad(function(leaf, *options)[0], leaf, grad)[0])
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_ten_iterations_with_open_sizes_keep_below_what_is_said():
    x = inputs.relu_features(2, 64, 9, torch.float32).unflatten(2, (3, 3))
    sizes = ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(GCP(64, dim=None, n_iter=10, output="full"), (x,), dynamic_shapes=sizes)
    pooled = gcp_kernels.export.decompose(program).module()(x)
    assert tolerances.relative_error(pooled, oracle.isqrt_pool(x.flatten(2).double(), 10)) <= 1e-5


def test_what_only_a_backward_pass_reads_is_not_invented():
    x = torch.randn(2, 5, 9)
    for name in ("isqrt_pool", "power_pool"):
        arguments = (x, 5, True, True, "default", "auto") if name == "isqrt_pool" else (x, 0.5, True, "auto")
        pooled, *others = TABLE[getattr(OPERATORS, name).default](*arguments)
        fused = getattr(OPERATORS, name).default(*arguments)
        assert [other.shape for other in others] == [other.shape for other in fused[1:]]
        assert pooled.isfinite().all()
        assert all(other.isnan().all() for other in others)


def test_a_program_is_left_with_operators_of_torch_on_the_smaller_side():
    model, x = nn.Sequential(GCP(128, dim=None), nn.Linear(128 * 129 // 2, 3)).eval(), torch.randn(2, 128, 4, 4)
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    replaced = gcp_kernels.export.decompose(program)
    assert any("gcp_kernels" in str(node.target) for node in program.graph.nodes)
    assert not any("gcp_kernels" in str(node.target) for node in replaced.graph.nodes)
    more = torch.randn(5, 128, 4, 4)
    torch.testing.assert_close(replaced.module()(more), model(more), rtol=1e-5, atol=1e-6)

    def squares(program):
        """Count products of two matrices of the channels, and of two of the positions."""
        products = [
            node for node in program.graph.nodes if str(node.target) in ("aten.matmul.default", "aten.bmm.default")
        ]
        shapes = [tuple(tuple(one.meta["val"].shape[-2:]) for one in node.args) for node in products]
        return shapes.count(((128, 128),) * 2), shapes.count(((16, 16),) * 2)

    assert squares(replaced) == (0, 11)
    open_sizes = ({0: batch, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    replaced = gcp_kernels.export.decompose(torch.export.export(model, (x,), dynamic_shapes=open_sizes))
    assert squares(replaced) == (11, 0)
    other = torch.randn(3, 128, 7, 5)
    torch.testing.assert_close(replaced.module()(other), model(other), rtol=1e-5, atol=1e-6)


class Gradient(nn.Module):
    def forward(self, x, grad):
        _, centre, trace, iterates = OPERATORS.isqrt_pool(x, 5, True, False, "default", "auto")
        return OPERATORS.isqrt_pool_backward(grad, x, centre, trace, iterates, 5, True, "default", "auto")


def test_what_cannot_be_replaced_is_refused_by_name():
    x = torch.randn(2, 4, 9)
    program = torch.export.export(Gradient(), (x, torch.randn(2, 10)))
    with pytest.raises(ValueError, match=r"calls gcp_kernels::isqrt_pool_backward, .* in evaluation"):
        gcp_kernels.export.decompose(program)
    for function in (gcp_kernels.export.decompose, gcp_kernels.export.use_extension):
        with pytest.raises(TypeError, match=r"must be a torch\.export\.ExportedProgram, got Gradient"):
            function(Gradient())


def test_no_table_of_torch_has_them():
    """With CI set, Inductor refuses what is there and has no lowering; tracers with open sizes take shapes from it."""
    assert not torch._decomp.get_decompositions([*TABLE])
    assert not set(TABLE) & set(torch._decomp.meta_table)
