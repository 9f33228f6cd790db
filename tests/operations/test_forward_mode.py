"""Forward-mode differentiation of every function and layer: the derivatives of the reference in reverse mode."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.utils._pytree import tree_leaves

import gcp_kernels
from gcp_kernels import functional, reference
from gcp_kernels.nn import GCP, DropCov, MultiHeadCrossCovariance, TokenFusionHead
from gcp_kernels.nn.normalization import NORMALIZATIONS
from gcp_kernels.ops import dropcov
from gcp_kernels.ops.covariance_pool.operator import covariance_pool
from gcp_kernels.ops.isqrt_pool.operator import isqrt_pool
from gcp_kernels.ops.matrix_function.operator import matrix_power
from gcp_kernels.ops.newton_schulz_inverse_sqrt.operator import newton_schulz_inverse_sqrt
from gcp_kernels.ops.newton_schulz_sqrt.operator import newton_schulz_sqrt
from tests.support import tolerances
from tests.support.public_functions import CASES, argnums, loss_of


def on(device: str, name: str) -> tuple[Tensor, ...]:
    return tuple(tensor.to(device) for tensor in CASES[name].given())


def assert_same(ours: object, theirs: object, what: str) -> None:
    for i, (actual, expected) in enumerate(zip(tree_leaves(ours), tree_leaves(theirs), strict=True)):
        if expected.any():
            tolerances.assert_same_float64(actual, expected, f"{what}, {i}")
        else:
            assert not actual.any(), f"{what}, {i}"


def test_every_function_is_among_them() -> None:
    covered = {name.removesuffix("_full").removesuffix("_scaled") for name in CASES}
    assert covered == set(functional.__all__)


@pytest.mark.parametrize("name", CASES)
def test_jvp(name: str, device: str) -> None:
    """Of all arguments at once and of each alone, and the same made linear once."""
    given = on(device, name)
    tangents = tuple(map(torch.randn_like, given))
    function, exact = CASES[name].function, CASES[name].exact
    value, tangent = jvp(function, given, tangents)
    pulled = torch.autograd.functional.jvp(exact, given, tangents)
    assert_same((value, tangent), pulled, "value and tangent")
    for i in argnums(given):
        rest = [torch.zeros_like(t) if j != i else t for j, t in enumerate(tangents)]
        alone = jvp(lambda x, i=i: function(*given[:i], x, *given[i + 1 :]), (given[i],), (tangents[i],))[1]
        assert_same(alone, torch.autograd.functional.jvp(exact, given, tuple(rest))[1], f"by argument {i}")


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")  # torch's own, in linearize
@pytest.mark.parametrize("name", ["covariance_pool_scaled", "newton_schulz_sqrt", "matrix_power"])
def test_linearize(name: str) -> None:
    given = CASES[name].given()
    tangents = tuple(map(torch.randn_like, given))
    _, push = torch.func.linearize(CASES[name].function, *given)
    assert_same(push(*tangents), torch.autograd.functional.jvp(CASES[name].exact, given, tangents)[1], "tangent")


@pytest.mark.parametrize("name", CASES)
def test_jacobian_and_hessian(name: str, device: str) -> None:
    """Forward over reverse, forward over forward and reverse over forward are reverse over reverse."""
    given = on(device, name)
    function, exact, by = CASES[name].function, CASES[name].exact, argnums(given)
    assert_same(jacfwd(function, by)(*given), jacrev(exact, by)(*given), "Jacobian")
    ours, second = loss_of(function), jacrev(jacrev(loss_of(exact), by), by)(*given)
    assert_same(hessian(ours, by)(*given), second, "Hessian")
    assert_same(jacfwd(jacfwd(ours, by), by)(*given), second, "forward over forward")
    assert_same(jacrev(jacfwd(ours, by), by)(*given), second, "reverse over forward")


@pytest.mark.parametrize("name", CASES)
def test_dual_numbers(name: str, device: str) -> None:
    """The tangent, and its gradient, which goes through the derivative of the formula."""
    given = on(device, name)
    tangents = tuple(map(torch.randn_like, given))
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    with forward_ad.dual_level():
        value = CASES[name].function(*map(forward_ad.make_dual, leaves, tangents))
        tangent = forward_ad.unpack_dual(value).tangent
    expected = torch.autograd.functional.jvp(CASES[name].exact, given, tangents)[1]
    assert_same(tangent.detach(), expected, "tangent")
    if not tangent.requires_grad:
        assert name in ("triu_vec", "triu_unvec"), "only what is linear has a constant tangent"
        return
    if name == "dropcov":  # torch's own softmax loses a tensor of its tangent, by a change in place
        return

    def squared(*given: Tensor) -> Tensor:
        return (jvp(CASES[name].exact, given, tangents)[1] ** 2).sum()

    gradients = torch.autograd.grad((tangent**2).sum(), leaves)
    assert_same(gradients, grad(squared, argnums(given))(*given), "gradient of the tangent")


@pytest.mark.parametrize("name", CASES)
def test_gradcheck(name: str) -> None:
    """Also of the backward passes, whose tangents come from the same formula."""
    leaves = tuple(tensor.requires_grad_() for tensor in CASES[name].given())
    function = CASES[name].function
    if name in ("matrix_power", "matrix_log"):  # numerical derivatives see where the rank changes
        leaves = tuple(matrices.detach()[:1].requires_grad_() for matrices in leaves)
    if name == "dropcov":  # and they go through the probability, which counts as constant
        leaves = leaves[:1]
        weight = CASES[name].given()[1]
        constant = dropcov.channel_weight(leaves[0].detach(), weight)
        scale = constant.detach() + 1
        function = lambda x: gcp_kernels.covariance_pool(x, scale=scale)  # noqa: E731
    assert torch.autograd.gradcheck(
        function, leaves, check_forward_ad=True, check_batched_forward_grad=True, fast_mode=True
    )
    assert torch.autograd.gradgradcheck(function, leaves, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("name", CASES)
def test_vectorized_forward_mode_of_autograd(name: str) -> None:
    given = CASES[name].given()
    ours = torch.autograd.functional.jacobian(CASES[name].function, given, strategy="forward-mode", vectorize=True)
    assert_same(ours, torch.autograd.functional.jacobian(CASES[name].exact, given), "Jacobian")


@pytest.mark.parametrize("name", CASES)
def test_vmap_of_jvp(name: str) -> None:
    stacked = tuple(map(torch.stack, zip(CASES[name].given(), CASES[name].given(), strict=True)))
    tangents = tuple(map(torch.randn_like, stacked))
    ours = vmap(lambda x, t: jvp(CASES[name].function, x, t)[1])(stacked, tangents)
    for i in range(2):
        given, along = ([tensor[i] for tensor in both] for both in (stacked, tangents))
        assert_same(ours[i], torch.autograd.functional.jvp(CASES[name].exact, (*given,), (*along,))[1], "tangent")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_tangents_have_the_dtype_of_what_they_belong_to(name: str, dtype: torch.dtype, device: str) -> None:
    exact = on(device, name)
    exact_tangents = tuple(map(torch.randn_like, exact))
    given, tangents = (tuple(tensor.to(dtype) for tensor in both) for both in (exact, exact_tangents))
    rounded = (tuple(tensor.double() for tensor in both) for both in (given, tangents))
    value, tangent = jvp(CASES[name].function, given, tangents)
    expected = torch.autograd.functional.jvp(CASES[name].exact, *rounded)[1]
    assert value.dtype == tangent.dtype == dtype
    # Of half a unit of rounding each, the singular matrices' own eigenvalues move by as much, whose roots move far.
    bound = {torch.float32: tolerances.PROMISE["high"], torch.bfloat16: 1e-2}[dtype]
    assert (tangent.double() - expected).norm() <= bound * expected.norm()


def test_what_is_kept_for_the_backward_pass_has_no_tangent(device: str) -> None:
    (x,), (tangent,) = (on(device, "fused_gcp") for _ in range(2))
    cov = x @ x.mT
    with forward_ad.dual_level():
        dual, dual_cov = forward_ad.make_dual(x, tangent), forward_ad.make_dual(cov, cov)
        for results in (
            isqrt_pool(dual, 3, True, True, "default", "auto"),
            covariance_pool(dual, None, False, "default", "auto"),
            newton_schulz_sqrt(dual_cov, 3, True, "default", "auto"),
            newton_schulz_inverse_sqrt(dual_cov, 3, 0.1, "default", "auto"),
            matrix_power(dual_cov, 0.5, "auto"),
        ):
            tangents = [forward_ad.unpack_dual(result).tangent is not None for result in results]
            assert tangents == [True] + [False] * (len(results) - 1)


def test_an_operator_called_directly_loses_no_tangent_unseen() -> None:
    """As the graphs of torch.export call it, in which there are operators and nothing else."""
    (x,) = CASES["fused_gcp"].given()
    exported = torch.export.export(GCP(3, dim=None), (x,)).module()
    with pytest.raises(RuntimeError, match=r"gcp_kernels::isqrt_pool .* called directly"):
        jvp(exported, (x,), (x,))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="use reverse mode"):
        exported(forward_ad.make_dual(x, x))
    torch.testing.assert_close(exported(x), gcp_kernels.fused_gcp(x))


def test_no_tangent_goes_through_the_probability_of_dropcov(device: str) -> None:
    """As no gradient does. With so many channels it is between 0 and 1, where it would have one."""
    x = torch.randn(2, 64, 10, dtype=torch.float64, device=device)
    gate_weight = torch.randn(1, 1, 3, dtype=torch.float64, device=device)
    mask = torch.rand(2, 64, device=device) < 0.5
    p = dropcov.drop_probability(x, dropcov.channel_weight(x, gate_weight))
    assert 0.1 < p < 0.9

    def pool(x: Tensor, gate_weight: Tensor) -> Tensor:
        return gcp_kernels.dropcov(x, gate_weight, training=True, mask=mask, output="full")

    def exact(x: Tensor, gate_weight: Tensor) -> Tensor:
        return reference.dropcov(x, gate_weight, mask)

    tangents = torch.randn_like(x), torch.randn_like(gate_weight)
    pulled = torch.autograd.functional.jvp(exact, (x, gate_weight), tangents)
    assert_same(jvp(pool, (x, gate_weight), tangents), pulled, "value and tangent")


def test_constant_features_have_the_tangent_zero(device: str) -> None:
    x = torch.ones(2, 3, 4, dtype=torch.float64, device=device)
    assert not jvp(gcp_kernels.fused_gcp, (x,), (torch.randn_like(x),))[1].any()
    assert not jacfwd(grad(lambda x: gcp_kernels.fused_gcp(x).sum()))(x).any()


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{f"GCP_{name}": (lambda name=name: GCP(4, dim=3, normalization=name), (2, 4, 3, 2)) for name in NORMALIZATIONS},
    "GCP_tokens": (lambda: GCP(4, dim=2, channel_dim=-1), (2, 6, 4)),
    "DropCov": (lambda: DropCov(4, dim=3), (2, 4, 3, 2)),
    "MultiHeadCrossCovariance": (lambda: MultiHeadCrossCovariance(4, 2, 2), (2, 6, 4)),
    "TokenFusionHead": (lambda: TokenFusionHead(4, MultiHeadCrossCovariance(4, 2, 2), 3), (2, 6, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_by_parameters_and_input(name: str, device: str) -> None:
    make, shape = LAYERS[name]
    layer = make().double().to(device).eval()
    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}
    x = torch.randn(shape, dtype=torch.float64, device=device)

    def run(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(layer, parameters, (x,))

    assert_same(jacfwd(run, (0, 1))(parameters, x), jacrev(run, (0, 1))(parameters, x), "Jacobian")
    loss = loss_of(run)
    assert_same(hessian(loss)(parameters, x), jacrev(jacrev(loss))(parameters, x), "Hessian")


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


COMPILED = [name for name in CASES if name not in ("matrix_power", "matrix_log")]


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", COMPILED)
def test_derivatives_inside_compile(name: str) -> None:
    """A compiler would take the tangent of an operator for zero, and knows no gradient of it there."""
    given = CASES[name].given()
    function, by = CASES[name].function, argnums(given)
    for transform in (grad(loss_of(function), by), lambda *given: jvp(function, given, given)[1]):
        compiled = torch.compile(transform, fullgraph=True, backend="eager")
        assert_same(compiled(*given), transform(*given), "derivative")


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    "transform",
    [
        jacfwd(gcp_kernels.covariance_pool),
        hessian(loss_of(gcp_kernels.covariance_pool)),
        vmap(grad(lambda x: loss_of(gcp_kernels.fused_gcp)(x[None]))),
        grad(lambda x: vmap(gcp_kernels.fused_gcp)(x[None]).sum()),
        vmap(lambda x: gcp_kernels.fused_gcp(x[None], backend="torch")),
    ],
    ids=["jacfwd", "hessian", "vmap_of_grad", "grad_of_vmap", "vmap_alone"],
)
def test_composed_transforms_inside_compile(transform: Callable[[Tensor], Tensor]) -> None:
    """vmap alone takes the operator, and with it any backend."""
    (x,) = CASES["fused_gcp"].given()
    assert_same(torch.compile(transform, fullgraph=True, backend="aot_eager")(x), transform(x), "derivative")


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    "function",
    [
        lambda x: gcp_kernels.fused_gcp(x, backend="torch"),
        lambda x: gcp_kernels.matrix_power(gcp_kernels.covariance_pool(x)),
        lambda x: gcp_kernels.matrix_log(gcp_kernels.covariance_pool(x)),
    ],
    ids=["named_backend", "matrix_power", "matrix_log"],
)
def test_what_cannot_be_differentiated_inside_compile_says_so(function: Callable[[Tensor], Tensor]) -> None:
    (x,) = CASES["fused_gcp"].given()
    for transform in (grad(loss_of(function)), lambda x: jvp(function, (x,), (x,))[1]):
        with pytest.raises(RuntimeError, match=r"gcp_kernels.* inside torch.compile .* do not compile"):
            torch.compile(transform, fullgraph=True, backend="eager")(x)
        torch.compiler.reset()
        assert_same(torch.compile(transform, backend="aot_eager")(x), transform(x), "with a graph break")
