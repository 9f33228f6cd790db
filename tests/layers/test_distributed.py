"""Two processes under DistributedDataParallel: gradients of nn.GCP are those of one process with the joined batch.

Of DropCov they are not, as published: its drop probability is that of the batch of one process.

So that the comparison is exact, nothing else in the network may mix samples: the batch normalisation of the reduction
uses its running statistics, and the two halves of the batch are equal in size, so that the average over processes of
the mean loss over a half is the mean loss over the whole.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gcp_kernels.nn import GCP, DropCov
from gcp_kernels.ops import dropcov
from tests.support import tolerances
from tests.support.process_group import PROCESSES, run_group

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="torch was built without torch.distributed"
)

CLASSES = 3
Outcome = dict[str, Tensor]


def network(pool: str) -> nn.Sequential:
    """Convolutions, the pooling and a classifier; the same weights in every process."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(2, 16, 3), nn.ReLU(), nn.Conv2d(16, 64, 3), nn.ReLU())
    with torch.no_grad():  # channels of different strength, so that DropCov's p is neither 0 nor 1
        backbone[2].weight *= torch.logspace(0, -1, 64)[:, None, None, None]
    layer = GCP(64, dim=8) if pool == "gcp" else DropCov(64, dim=None)
    model = nn.Sequential(backbone, layer, nn.Linear(layer.out_features, CLASSES)).double()
    return model.eval() if pool == "gcp" else model.train()


def images_and_labels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, 2, 9, 9, generator=generator, dtype=torch.float64)
    images[4:] *= 0.1  # biases count for more in this half, so that it has another p
    return images, torch.randint(CLASSES, (8,), generator=generator)


def part(rank: int) -> slice:
    return slice(4 * rank, 4 * (rank + 1))


def drop_probability(model: nn.Sequential, images: Tensor) -> Tensor:
    backbone, layer, _ = model
    features = backbone(images).detach().flatten(2)
    weight = dropcov.channel_weight(features, layer.eca_layer.conv.weight.detach())
    return dropcov.drop_probability(features, weight)


def gradients(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> Outcome:
    """Of one training step; the seed is that of DropCov's mask."""
    model.zero_grad()
    torch.manual_seed(seed)
    nn.functional.cross_entropy(model(images), labels).backward()
    return {name.removeprefix("module."): parameter.grad.clone() for name, parameter in model.named_parameters()}


def train(rank: int, folder: Path) -> None:
    """Find the gradients for a part of the batch, seed 10 + rank; what was found goes into ``folder``."""
    images, labels = (tensor[part(rank)] for tensor in images_and_labels())
    outcome: dict[str, Outcome] = {}
    for pool in ("gcp", "dropcov"):
        model = network(pool)
        parallel = nn.parallel.DistributedDataParallel(model)
        outcome[pool] = gradients(parallel, images, labels, seed=10 + rank)
    outcome["p"] = {"p": drop_probability(model, images)}
    torch.save(outcome, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Outcome]]:
    """Give what each process found."""
    folder = tmp_path_factory.mktemp("processes")
    run_group(train, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


def assert_same(found: Outcome, expected: Outcome) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.any(), name
        tolerances.assert_same_float64(found[name], gradient, name)


def averaged(pool: str, seed: Callable[[int], int]) -> Outcome:
    """Average the gradients that one process finds for each half of the batch by itself."""
    images, labels = images_and_labels()
    halves = [gradients(network(pool), images[part(rank)], labels[part(rank)], seed(rank)) for rank in range(PROCESSES)]
    return {name: sum(half[name] for half in halves) / PROCESSES for name in halves[0]}


def test_gcp_gradients_are_those_of_one_process_with_the_joined_batch(outcomes: list[dict[str, Outcome]]) -> None:
    expected = gradients(network("gcp"), *images_and_labels(), seed=0)
    for outcome in outcomes:
        assert_same(outcome["gcp"], expected)


def test_dropcov_has_a_probability_for_each_process(outcomes: list[dict[str, Outcome]]) -> None:
    images, _ = images_and_labels()
    model = network("dropcov")
    probabilities = [outcome["p"]["p"].item() for outcome in outcomes]
    for rank, p in enumerate(probabilities):
        assert p == pytest.approx(drop_probability(model, images[part(rank)]).item(), abs=1e-12)
    joined = drop_probability(model, images).item()
    assert joined == pytest.approx(sum(probabilities) / PROCESSES, abs=1e-12), "p is linear in r between its bounds"
    assert 0.05 < min(probabilities) < joined - 0.05 < joined + 0.05 < max(probabilities) < 0.95


def test_dropcov_gradients_are_the_average_over_processes(outcomes: list[dict[str, Outcome]]) -> None:
    expected = averaged("dropcov", seed=lambda rank: 10 + rank)
    for outcome in outcomes:
        assert_same(outcome["dropcov"], expected)
