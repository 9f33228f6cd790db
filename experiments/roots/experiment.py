"""One run: a network with one root, and how far that root is from the exact one on what the network pools."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gcp_kernels.eigenvalues import eigh
from gcp_kernels.reference import covariance_pool, matrix_power, triu_unvec

from ..datasets import ImageData
from ..reproduction import experiment
from ..reproduction.runs import Job, Run
from ..reproduction.settings import Settings
from ..reproduction.workers import load_images
from ..training.batches import TEST_BATCH
from .optimal_root import SMALLEST_EIGENVALUE
from .roots import ROOTS


def run_job(job: Job, settings: Settings) -> Run:
    """Run a job, whose pool is one of ``ROOTS``, on what ``settings`` name."""
    return train_and_measure(job, load_images(settings), settings)


def train_and_measure(job: Job, data: ImageData, settings: Settings) -> Run:
    """Train a network and measure it as :func:`experiments.reproduction.experiment.train_and_measure` does.

    What is measured has the figures of :func:`root_figures` besides, on the training images of the flatness.
    """

    def others(network: nn.Sequential) -> dict[str, float]:
        return root_figures(network, data.train.first(settings.flatness_images).images, settings.pools)

    return experiment.train_and_measure(job, data, settings, pooling=ROOTS[job.pool].build, others=others)


def root_figures(network: nn.Sequential, images: Tensor, roots: Sequence[str] = ()) -> dict[str, float]:
    """Compare a network's root with the exact one, in evaluation mode, and describe what it is taken of.

    The networks of two roots pool other features: to compare roots by their distance, take those of one network.

    Args:
        network: trunk, pooling and classifier; the pooling returns upper triangles.
        images: shape (n, channels, size, size).
        roots: names of ``ROOTS``, to be taken of what this network pools too.

    Returns:
        Means over the images: ``root_error``, ||root - exact||_F / ||exact||_F, the exact one decomposed in float64;
        of the eigenvalues divided by their sum, the ``largest_eigenvalue``, the ``median_eigenvalue``, how many are
        below ``SMALLEST_EIGENVALUE`` as a share of all (``eigenvalues_below``), and the sum of these (``trace_below``).
        Of each of ``roots`` its ``error_ROOT``; what that is when the root is multiplied by the number with which it is
        least (``rescaled_ROOT``); and ||root||_F / ||exact||_F (``norm_ROOT``).
    """
    network.eval()
    trunk, pooling = network[0], network[1]
    channels = triu_unvec(pooling(trunk(images[:1]))).shape[-1]
    layers = [ROOTS[name].build(channels).to(images.device).eval() for name in roots]
    rows: list[Tensor] = []
    with torch.no_grad():
        for part in images.split(TEST_BATCH):
            features = trunk(part)
            root = triu_unvec(pooling(features)).double()
            cov = covariance_pool(features.flatten(2).double())
            exact = matrix_power(cov)
            values = eigh(cov)[0].clamp_min(0)
            shares = values / values.sum(-1, keepdim=True)
            below = shares < SMALLEST_EIGENVALUE
            others = [triu_unvec(layer(features)).double() for layer in layers]
            rows.append(
                torch.stack(
                    [
                        _distance(root, exact),
                        shares.amax(-1),
                        shares.median(-1).values,
                        below.double().mean(-1),
                        (shares * below).sum(-1),
                        *(function(other, exact) for other in others for function in DISTANCES.values()),
                    ],
                    dim=-1,
                )
            )
    of_this = ("root_error", "largest_eigenvalue", "median_eigenvalue", "eigenvalues_below", "trace_below")
    names = (*of_this, *(f"{distance}_{root}" for root in roots for distance in DISTANCES))
    return dict(zip(names, torch.cat(rows).mean(0).tolist(), strict=True))


def _distance(root: Tensor, exact: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(root - exact) / torch.linalg.matrix_norm(exact)


def _rescaled_distance(root: Tensor, exact: Tensor) -> Tensor:
    scale = (root * exact).sum((-2, -1)) / root.square().sum((-2, -1))
    return _distance(scale[:, None, None] * root, exact)


def _norm(root: Tensor, exact: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(root) / torch.linalg.matrix_norm(exact)


DISTANCES = {"error": _distance, "rescaled": _rescaled_distance, "norm": _norm}
