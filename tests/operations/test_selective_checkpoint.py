"""Selective activation checkpointing: what a policy names is saved or computed again, with the same gradients."""

import functools
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from gcp_kernels.nn import GCP
from gcp_kernels.ops.operators import OPERATORS

pytestmark = pytest.mark.versions

X = torch.relu(torch.randn(3, 6, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
OF_LAYERS = {
    "isqrt": "isqrt_pool",
    "none": "covariance_pool",
    "elementwise": "covariance_pool",
    "power": "power_pool",
    "log": "log_pool",
}


class Calls(TorchDispatchMode):
    """Counts the calls of our operators."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in OPERATORS:
            self.counts[func.name().split("::")[1]] += 1
        return func(*args, **(kwargs or {}))


def network(normalization: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU(), GCP(6, dim=None, normalization=normalization)).double()


def save(operator, ctx, called, *args, **kwargs):
    return CheckpointPolicy.MUST_SAVE if called is operator else CheckpointPolicy.PREFER_RECOMPUTE


def gradients(model: nn.Module, policy=None) -> tuple[list[Tensor], Counter[str]]:
    with Calls() as calls:
        if policy is None:
            pooled = model(X)
        else:
            contexts = functools.partial(create_selective_checkpoint_contexts, policy)
            pooled = checkpoint(model, X, use_reentrant=False, context_fn=contexts)
        found = torch.autograd.grad(pooled.square().sum(), list(model.parameters()))
    return list(found), calls.counts


@pytest.mark.parametrize("normalization", OF_LAYERS)
def test_what_must_be_saved_is_not_computed_again(normalization):
    name = OF_LAYERS[normalization]
    operator = getattr(torch.ops.gcp_kernels, name).default
    model = network(normalization)
    expected, counts = gradients(model)
    assert counts == {name: 1, f"{name}_backward": 1}
    nothing = functools.partial(save, None)
    for policy, forward in ((functools.partial(save, operator), 1), (nothing, 2)):
        found, counts = gradients(model, policy)
        assert counts == {name: forward, f"{name}_backward": 1}
        for actual, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=0, atol=0)


@pytest.mark.slow
def test_a_compiled_step_keeps_to_the_policy():
    model = network("isqrt")
    expected, _ = gradients(model)
    policy = functools.partial(save, torch.ops.gcp_kernels.isqrt_pool.default)
    contexts = functools.partial(create_selective_checkpoint_contexts, policy)
    step = torch.compile(
        lambda x: checkpoint(model, x, use_reentrant=False, context_fn=contexts), fullgraph=True, backend="aot_eager"
    )
    found = torch.autograd.grad(step(X).square().sum(), list(model.parameters()))
    for actual, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_the_page_names_every_forward_operator():
    page = (Path(__file__).parents[2] / "docs" / "sharding.md").read_text(encoding="utf-8")
    names = {operator.name().split("::")[1] for operator in OPERATORS}
    forward = {name for name in names if not name.endswith("_backward")}
    assert set(re.findall(r"`torch\.ops\.gcp_kernels\.(\w+)\.default`", page)) == forward
