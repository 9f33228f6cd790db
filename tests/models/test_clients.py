"""Drop-in check with a real client: pytorchcv's iSQRT-COV ResNet with its pooling replaced by ours."""

import copy

import pytest
import torch
from torch import Tensor, nn

from gcp_kernels import fused_gcp
from gcp_kernels.nn import GCP

isqrtcovresnet = pytest.importorskip(
    "pytorchcv.models.isqrtcovresnet", reason="pytorchcv is not installed (pip install --no-deps pytorchcv==0.0.74)"
)

# Both implementations run in float32 and round differently; the drop-in promise is 1e-4.
DROP_IN_TOLERANCE = 1e-4


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


def step(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    logits = network(images)
    nn.functional.cross_entropy(logits, labels).backward()
    return logits.detach(), {name: parameter.grad for name, parameter in network.named_parameters()}


def test_isqrtcovresnet18_keeps_its_logits_and_every_gradient():
    torch.manual_seed(0)
    theirs = isqrtcovresnet.isqrtcovresnet18(in_size=(96, 96), num_classes=10)
    ours = copy.deepcopy(theirs)
    ours.features.final_pool = GCP(256, dim=None)
    images, labels = torch.randn(4, 3, 96, 96), torch.randint(0, 10, (4,))

    their_logits, their_gradients = step(theirs, images, labels)
    our_logits, our_gradients = step(ours, images, labels)

    assert relative_difference(our_logits, their_logits) < DROP_IN_TOLERANCE
    assert len(our_gradients) == len(their_gradients) > 60
    for name, gradient in their_gradients.items():
        assert gradient.norm() > 0, name
        assert relative_difference(our_gradients[name], gradient) < DROP_IN_TOLERANCE, name


@pytest.mark.parametrize("n_iter", [2, 3, 5])
def test_pooling_equals_pytorchcv_in_float64(n_iter):
    x = torch.relu(torch.randn(3, 24, 5, 5, dtype=torch.float64)).requires_grad_()
    theirs = isqrtcovresnet.iSQRTCOVPool(n_iter)(x).flatten(1)
    ours = fused_gcp(x, n_iter=n_iter)
    upstream = torch.randn_like(ours)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(
        *(torch.autograd.grad(pooled, x, upstream) for pooled in (ours, theirs)), rtol=1e-9, atol=1e-12
    )
