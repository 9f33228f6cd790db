"""Training in mixed precision: a small network with each pooling learns under autocast, with gradients scaled."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gcp_kernels.nn import GCP, DropCov

pytestmark = pytest.mark.versions

CLASSES = 10
STEPS = 40
POOLS: dict[str, Callable[[], nn.Module]] = {
    "gcp": lambda: GCP(32, dim=16),
    "dropcov": lambda: DropCov(32, dim=16),
    "dropcov without reduction": lambda: DropCov(32, dim=None),
}
AUTOCAST_DTYPES = (torch.bfloat16, torch.float16)


def digits(count: int) -> tuple[Tensor, Tensor]:
    """Draw images (n, 1, 8, 8) in [0, 1] of ten made-up shapes, each smooth, shifted and noisy; and labels (n,)."""
    generator = torch.Generator().manual_seed(0)
    shapes = torch.randn(CLASSES, 1, 4, 4, generator=generator)
    shapes = nn.functional.interpolate(shapes, size=8, mode="bilinear")
    labels = torch.randint(CLASSES, (count,), generator=generator)
    shifts = torch.randint(-1, 2, (count,), generator=generator).tolist()
    images = torch.stack(
        [shapes[label].roll(shift, dims=-1) for label, shift in zip(labels.tolist(), shifts, strict=True)]
    )
    return (images + 0.3 * torch.randn(images.shape, generator=generator)).sigmoid(), labels


def network(pool: nn.Module) -> nn.Sequential:
    backbone = nn.Sequential()
    for channels, width in ((1, 16), (16, 32)):
        backbone.extend([nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()])
    return nn.Sequential(backbone, pool, nn.Linear(pool.out_features, CLASSES))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("autocast_dtype", AUTOCAST_DTYPES, ids=str)
@pytest.mark.parametrize("pool", POOLS)
def test_a_network_learns_under_autocast(pool: str, autocast_dtype: torch.dtype, device: str) -> None:
    """As AMP is used: parameters float32, losses of float16 scaled, steps with infinite gradients left out."""
    model = network(POOLS[pool]()).to(device)
    images, labels = (tensor.to(device) for tensor in digits(256))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler(device, enabled=autocast_dtype == torch.float16)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses, left_out = [], 0
    for step in range(STEPS):
        part = slice(64 * (step % 4), 64 * (step % 4 + 1))
        with torch.autocast(device, dtype=autocast_dtype):
            logits = model(images[part])
            loss = nn.functional.cross_entropy(logits, labels[part])
        assert logits.dtype == autocast_dtype
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        finite = all(parameter.grad.isfinite().all() for parameter in model.parameters())
        left_out += not finite
        assert finite or scaler.is_enabled(), f"step {step} has a gradient that is not finite"
        scaler.step(optimiser)
        scaler.update()
        losses.append(loss.item())
    # The scale starts at 2^16 and is halved until the gradients are in the range of float16.
    assert left_out <= 4
    assert all(map(torch.isfinite, torch.tensor(losses)))
    assert sum(losses[-4:]) < 0.3 * sum(losses[:4]), losses
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("autocast_dtype", AUTOCAST_DTYPES, ids=str)
def test_first_step_is_near_that_of_float32(autocast_dtype: torch.dtype, device: str) -> None:
    """Not only finite: with the same mask the loss, and the gradient of the classifier, are those of float32."""
    images, labels = (tensor.to(device) for tensor in digits(64))
    torch.manual_seed(0)
    model = network(POOLS["dropcov"]()).to(device)
    results = []
    for enabled in (False, True):
        model.zero_grad()
        torch.manual_seed(1)
        with torch.autocast(device, dtype=autocast_dtype, enabled=enabled):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        results.append((loss.item(), model[2].weight.grad))
    (loss, gradient), (amp_loss, amp_gradient) = results
    # Convolutions and the classifier round to 8 (bfloat16) or 11 bits.
    assert amp_loss == pytest.approx(loss, rel=8 * torch.finfo(autocast_dtype).eps)
    distance = (amp_gradient - gradient).norm() / gradient.norm()
    assert distance < 8 * torch.finfo(autocast_dtype).eps
