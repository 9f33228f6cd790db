"""The operators called directly: what would make a kernel read elsewhere is refused by name."""

import re

import pytest
import torch

pytestmark = pytest.mark.versions

OPS = torch.ops.gcp_kernels
X = torch.relu(torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)))
COV = torch.eye(3).expand(2, 3, 3).contiguous()


def forward(n_iter=5, precision="high", backend="auto", x=X):
    return OPS.isqrt_pool(x, n_iter, True, True, precision, backend)


def test_isqrt_pool_refuses_what_it_cannot_mean():
    with pytest.raises(ValueError, match=r"n_iter must be at least 1, got 0"):
        forward(n_iter=0)
    with pytest.raises(ValueError, match=r"got 'hihg'"):
        forward(precision="hihg")
    with pytest.raises(ValueError, match=r"got 'bogus'"):
        forward(backend="bogus")
    with pytest.raises(TypeError, match=r"complex64"):
        forward(x=X.to(torch.complex64))
    with pytest.raises(TypeError, match=r"sparse"):
        forward(x=X.to_sparse())


def test_isqrt_pool_backward_refuses_other_shapes():
    pooled, *saved = forward()
    wide = torch.cat((pooled, pooled), 1)
    with pytest.raises(ValueError, match=r"grad must have shape \(2, 6\), got \(2, 12\)"):
        OPS.isqrt_pool_backward(wide, X, *saved, 5, True, "high", "auto")
    with pytest.raises(ValueError, match=r"iterates must have shape .*\(2, 6, 3, 3\), got \(2, 10, 3, 3\)"):
        OPS.isqrt_pool_backward(pooled, X, *saved, 3, True, "high", "auto")


def test_covariance_pool_backward_refuses_other_shapes():
    cov, centre = OPS.covariance_pool(X, None, False, "high", "auto")
    with pytest.raises(ValueError, match=r"grad must have shape \(2, 6\), got \(2, 3, 3\)"):
        OPS.covariance_pool_backward(cov, X, None, centre, True, "high", "auto")


@pytest.mark.parametrize("shape", [(3,), (2, 4), (1, 3), (2, 1), (2, 3, 1), (2, 0)])
def test_covariance_pool_refuses_other_scales(shape):
    scale = torch.ones(shape)
    message = rf"scale must have shape \(2, 3\), got {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=message):
        OPS.covariance_pool(X, scale, False, "high", "auto")
    cov, centre = OPS.covariance_pool(X, None, False, "high", "auto")
    with pytest.raises(ValueError, match=message):
        OPS.covariance_pool_backward(cov, X, scale, centre, False, "high", "auto")


def test_covariance_pool_refuses_scales_of_other_dtypes():
    scale = torch.ones(2, 3, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"scale must be float16, .*int64"):
        OPS.covariance_pool(X, scale, False, "high", "auto")
    cov, centre = OPS.covariance_pool(X, None, False, "high", "auto")
    with pytest.raises(TypeError, match=r"scale must be float16, .*int64"):
        OPS.covariance_pool_backward(cov, X, scale, centre, False, "high", "auto")


def test_newton_schulz_sqrt_refuses_what_it_cannot_mean():
    with pytest.raises(ValueError, match=r"n_iter must be at least 1, got -1"):
        OPS.newton_schulz_sqrt(COV, -1, False, "high", "auto")
    root, trace, iterates = OPS.newton_schulz_sqrt(COV, 5, True, "high", "auto")
    with pytest.raises(ValueError, match=r"grad must have shape \(2, 3, 3\), got \(3, 3\)"):
        OPS.newton_schulz_sqrt_backward(root[0], COV, trace, iterates, 5, "high", "auto")
