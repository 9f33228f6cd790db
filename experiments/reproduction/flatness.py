"""How flat the loss is around trained weights: its largest curvature, and its rise in random directions."""

from dataclasses import dataclass
from math import inf
from statistics import fmean

import torch
from torch import nn
from torch.nn import functional

from gcp_kernels.analysis import filter_normalized_surface, hessian_top_eigenvalue

from ..datasets import Part

# In units of the weights' own norm, filter by filter. With average pooling the loss at the end of training, 0.02, grows
# fourfold at 0.1; at 0.5 it is above that of guessing (2.3), and nothing is left of the minimum.
SURFACE_STEPS = (-0.2, -0.1, 0.1, 0.2)
# A tenth of the eigenvalue: the Hessian, being symmetric, has one within the residual of what was found.
RESIDUAL_ALLOWED = 0.1


@dataclass(frozen=True)
class Flatness:
    """The loss of some training images, in evaluation mode, around the weights.

    In evaluation mode DropCov drops nothing and BatchNorm uses its running statistics: the loss of the network that is
    tested.

    Attributes:
        loss: at the weights.
        eigenvalue: the Hessian's largest in magnitude, by power iteration.
        residual: ||H v - lambda v||, how far from an eigenvalue that may be.
        surface: loss at ``SURFACE_STEPS`` along each filter-normalised random direction.
    """

    loss: float
    eigenvalue: float
    residual: float
    surface: tuple[tuple[float, ...], ...]

    @property
    def relative_residual(self) -> float:
        """The residual as a share of the eigenvalue's magnitude; zero where both are zero."""
        size = abs(self.eigenvalue)
        return self.residual / size if size else (inf if self.residual else 0.0)

    @property
    def rise(self) -> float:
        """Mean over steps and directions of the loss there, less the loss at the weights."""
        return fmean(loss for line in self.surface for loss in line) - self.loss


def measure_flatness(network: nn.Module, part: Part, iterations: int, directions: int) -> Flatness:
    """Measure the flatness on a part, by at most ``iterations`` of power iteration and in ``directions`` directions."""
    network.eval()

    def loss() -> torch.Tensor:
        return functional.cross_entropy(network(part.images), part.labels)

    with torch.no_grad():
        at_weights = loss().item()
    top = hessian_top_eigenvalue(network, loss, max_iterations=iterations, tolerance=1e-2)
    lines = (filter_normalized_surface(network, loss, SURFACE_STEPS, seed=seed) for seed in range(directions))
    return Flatness(at_weights, top.eigenvalue, top.residual, tuple(tuple(line.losses.tolist()) for line in lines))
