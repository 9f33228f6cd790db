"""Operators leave torch's dispatcher out where it has nothing to do, and nowhere else."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from gcp_kernels import covariance_pool, functional, fused_gcp
from gcp_kernels.ops.dispatch import is_differentiated, is_idle

ROOT = Path(__file__).parents[2]
X = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))


class Seen(TorchDispatchMode):
    """The names of the package's operators that are called inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "gcp_kernels":
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def test_nothing_is_set_by_default_nor_where_gradients_are_off(device):
    x = X.to(device)
    assert is_idle((x,))
    assert is_idle((x, None))
    assert is_idle((torch.nn.Parameter(x),))
    with torch.no_grad():
        assert is_idle((x,))
    with torch.inference_mode():
        assert is_idle((x,))
        assert is_idle((x.clone(),))


@pytest.mark.parametrize("transform", [torch.vmap, torch.func.grad, torch.func.jacfwd, make_fx])
def test_transforms_are_noticed(transform):
    asked = []

    def function(x):
        asked.append(is_idle((x,)))
        return x.sum()

    called = transform(function)(X) if transform is not make_fx else make_fx(function)(X)
    assert called is not None
    assert asked
    assert not any(asked)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_modes_and_tracers_are_noticed():
    for mode in (Seen(), FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu"), forward_ad.dual_level()):
        with mode:
            assert not is_idle((X,)), mode
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        assert not is_idle((X,))
    asked = []
    torch.jit.trace(lambda x: (asked.append(is_idle((x,))), x + 1)[1], X, check_trace=False)
    assert asked == [False]
    assert is_idle((X,))


def test_tensors_without_values_of_their_own_are_noticed():
    negation = torch.randn(2, 3, 5, dtype=torch.complex64).conj().imag
    assert negation.is_neg()
    for tensor in (negation, X.to("meta"), torch._efficientzerotensor((2, 3, 5)), X.to_sparse()):
        assert not is_idle((tensor,))
        assert not is_idle((X, tensor))


def test_a_lazy_negation_is_pooled_as_its_values():
    lazy = torch.randn(2, 3, 5, dtype=torch.complex64).conj().imag
    assert torch.equal(fused_gcp(lazy), fused_gcp(lazy.resolve_neg()))


def test_inference_mode_records_nothing_whatever_is_enabled_inside():
    leaf = X.clone().requires_grad_()
    with torch.inference_mode(), torch.enable_grad():
        assert not is_differentiated((leaf,))
        value = fused_gcp(leaf)
    assert not value.requires_grad
    assert torch.equal(value, fused_gcp(X))


def test_a_subclass_sees_the_backward_pass_as_one_operator():
    seen = []

    class Watching(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return super().__torch_function__(func, types, args, kwargs or {})

    x = X.clone().as_subclass(Watching).requires_grad_()
    loss = fused_gcp(x).as_subclass(torch.Tensor).sum()
    seen.clear()
    loss.backward()
    assert [name for name in seen if "gcp_kernels" in name] == ["gcp_kernels.isqrt_pool_backward.default"]
    assert not any("bmm" in name for name in seen)


def test_public_functions_are_pickled_by_the_name_that_stays():
    assert pickle.loads(pickle.dumps(fused_gcp)) is fused_gcp
    assert {getattr(functional, name).__module__ for name in functional.__all__} == {"gcp_kernels.functional"}


def test_autograd_is_asked_of_every_tensor():
    leaf = X.clone().requires_grad_()
    assert not is_differentiated((X, None))
    assert is_differentiated((X, leaf))
    with torch.no_grad():
        assert not is_differentiated((leaf,))


@pytest.mark.parametrize("scaled", [False, True])
def test_both_ways_give_the_same_bits(scaled, device):
    """A mode that only looks has every operator go through the dispatcher."""
    scale = torch.rand(2, 3, device=device) if scaled else None

    def run():
        leaves = [X.to(device, copy=True).requires_grad_(), *([scale.clone().requires_grad_()] if scaled else [])]
        values = [covariance_pool(leaves[0], scale=leaves[1] if scaled else None, output="triu"), fused_gcp(leaves[0])]
        loss = sum((value**2).sum() for value in values)
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.sum() for g in first), leaves)
        return [*values, *first, *second]

    alone = run()
    with Seen() as seen:
        watched = run()
    assert set(seen.names) == {
        f"gcp_kernels::{name}{suffix}" for name in ("covariance_pool", "isqrt_pool") for suffix in ("", "_backward")
    }
    for one, other in zip(alone, watched, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("gradient", [False, True])
def test_a_profiler_lists_operators_by_name(gradient):
    x = X.clone().requires_grad_(gradient)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        value = fused_gcp(x)
        if gradient:
            value.sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert "gcp_kernels::isqrt_pool" in names
    assert ("gcp_kernels::isqrt_pool_backward" in names) == gradient


def test_a_backward_pass_changes_nothing(device):
    asked = []

    class Probe(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            asked.append(is_idle((grad,)))
            return grad

    Probe.apply(X.to(device, copy=True).requires_grad_()).sum().backward()
    assert asked == [True]


def test_the_node_of_the_graph_is_named_for_the_operator():
    assert type(fused_gcp(X.clone().requires_grad_()).grad_fn).__name__ == "isqrt_poolBackward"


@pytest.mark.parametrize("mode", ["torch.inference_mode()", "torch.autocast('cpu')"])
def test_what_is_normal_does_not_depend_on_where_the_package_is_imported(mode):
    program = f"""
import torch
with {mode}:
    import gcp_kernels
    from gcp_kernels.ops.dispatch import is_idle
x = torch.randn(2, 3, 5)
assert is_idle((x,))
with torch.autocast("cpu"):
    assert not is_idle((x,))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
