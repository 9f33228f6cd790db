"""Second derivatives of the pooling on both sides, against the reference in float64, where it degenerates too."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gcp_kernels import fused_gcp, reference
from gcp_kernels.ops.torch_device.side import side_of
from gcp_kernels.precision import PROMISED_ERRORS


def hessian_product(pool, x, direction, weight):
    """Multiply the Hessian of a loss that is quadratic in the pooled features by a direction."""
    x = x.clone().requires_grad_()
    pooled = pool(x)
    (grad,) = torch.autograd.grad((pooled * weight).sum() + pooled.square().sum(), x, create_graph=True)
    (product,) = torch.autograd.grad((grad * direction).sum(), x)
    return product


def made(c, m):
    """Make a constant sample, one whose positions are all alike, one with two alike, and two of full rank."""
    x = torch.randn(5, c, m, dtype=torch.float64)
    x[0] = 1.5
    x[1] = x[1, :, :1]
    x[2, :, 1 % m] = x[2, :, 0]
    return x, torch.randn_like(x), torch.randn(c * (c + 1) // 2, dtype=torch.float64)


@pytest.mark.parametrize("n_iter", [1, 2, 3, 5, 12])
@pytest.mark.parametrize(("c", "m"), [(24, 9), (24, 2), (24, 1), (64, 49), (9, 24), (12, 12)])
def test_second_derivatives_are_those_of_the_reference(c, m, n_iter):
    x, direction, weight = made(c, m)
    expected = hessian_product(lambda x: reference.triu_vec(reference.isqrt_pool(x, n_iter)), x, direction, weight)
    for dtype, allowed in ((torch.float64, 1e-11), (torch.float32, PROMISED_ERRORS["high"] if n_iter <= 5 else 2e-4)):
        arguments = (tensor.to(dtype) for tensor in (x, direction, weight))
        product = hessian_product(lambda x: fused_gcp(x, n_iter=n_iter), *arguments).double()
        assert not product[:2].any(), "of constant channels"
        for ours, exact in zip(product, expected, strict=True):
            assert (ours - exact).norm() <= allowed * exact.norm()


class Products(TorchDispatchMode):
    """Notes the numbers that batched products multiply."""

    def __init__(self):
        super().__init__()
        self.multiplied = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.bmm, torch.ops.aten.baddbmm):
            left, right = args[-2:]
            self.multiplied += left.numel() * right.shape[-1]
        return function(*args, **(kwargs or {}))


def test_they_multiply_matrices_of_the_smaller_side():
    """As many products for (C, M) as for (M, C), of matrices of the same order; few more have C M M numbers."""
    counted = {}
    for c, m in ((40, 8), (8, 40)):
        x, direction, weight = made(c, m)
        with Products() as products:
            hessian_product(fused_gcp, x, direction, weight)
        counted[side_of(c, m)] = products.multiplied
    positions, channels = counted["positions"], counted["channels"]
    # Through the reference the first would be about (40 / 8)^3 times the second.
    assert positions < 5 * channels
