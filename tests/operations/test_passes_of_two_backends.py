"""What one backend's forward pass keeps, another's backward pass can go on with: "auto" chooses for each pass."""

import pytest
import torch

from gcp_kernels import reference
from tests.support import inputs
from tests.support.backend_pairs import runnable
from tests.support.tolerances import assert_promise_kept

PAIRS = [
    (first, second, device)
    for first, device in runnable("isqrt_pool")
    for second, other in runnable("isqrt_pool")
    if device == other and first != second
]
# On both sides, and where backends differ in the side.
SHAPES = [(2, 20, 49), (2, 40, 9), (2, 40, 33), (1, 70, 100)]


@pytest.mark.parametrize(("first", "second", "device"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
@pytest.mark.parametrize("precision", ["high", "fast"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_backward_pass_goes_on_with_what_another_backend_kept(first, second, device, precision, shape):
    x = (inputs.relu_features(*shape) + 0.5).float()
    if shape[1] == 20:
        x = x.mT.contiguous().mT  # channels last
    exact = x.double().requires_grad_()
    pooled = reference.triu_vec(reference.isqrt_pool(exact, 5))
    grad = torch.randn(pooled.shape, dtype=torch.float64).float()
    pooled.backward(grad.double())

    x, grad = x.to(device), grad.to(device)
    _, *kept = torch.ops.gcp_kernels.isqrt_pool(x, 5, True, False, precision, first)
    found = torch.ops.gcp_kernels.isqrt_pool_backward(grad, x, *kept, 5, True, precision, second)
    assert_promise_kept(found, exact.grad, precision, f"gradient by {second} after {first}")
