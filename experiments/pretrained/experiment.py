"""One run: a pooling and a linear classifier, on kept features of the frozen network or together with the network."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gcp_kernels.integrations import replace_pool
from gcp_kernels.nn.poolings import BASELINE, PUBLISHED_POOLINGS

from .heads import AVERAGE, Head
from .preparation import Kept, Part, load_kept, upsampled
from .weights import load_pretrained

FROZEN, TUNED = "frozen", "fine-tuned"
STAGES = (FROZEN, TUNED)
COMPARED = (BASELINE, *PUBLISHED_POOLINGS)
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
TEST_BATCH = 50


@dataclass(frozen=True)
class Settings:
    """What is run.

    What decided the defaults, on one core: the network takes 26 ms for an image of 224x224, and fine-tuning 20 to 25 ms
    for one of 128x128 without the stride of the last stage. Training a classifier on kept features takes 8 ms an image
    (GCP) or 14 ms (DropCov) without a reduction, 1 ms with 256 channels. All trainings together take some four hours of
    processor time.

    Attributes:
        data: names of data sets.
        frozen: poolings on the features of the frozen network, average pooling among them.
        tuned: those that are trained together with the network; empty for none.
        frozen_rates, tuned_rates: learning rates to choose from, for every pooling the same.
        extensions: how many times a grid gets one rate more, a third of its lowest or three times its highest, where
            that is the best.
        frozen_size: height and width of the frozen network's images; 224 gives 7x7 positions.
        tuned_size: of those to fine-tune; the last stage's stride is dropped, so that 128 gives 8x8 positions.
        frozen_images: how many to train on, at most.
        tuned_images: how many of them to fine-tune on.
        validation_images: how many to choose the learning rate by, at most.
        test_images: how many to test on, at most.
        frozen_epochs, tuned_epochs: passes over the training images.
        frozen_seeds, tuned_seeds: how many, from 0.
        batch_size: images in a step.
        cost_images: batch that time and memory of the poolings are measured with.
        cost_repeats: of which the fastest counts.
        jobs: processes; decides nothing but the time.
    """

    data: tuple[str, ...] = ("typefaces", "mnist")
    frozen: tuple[Head, ...] = tuple(Head(pool, dim) for pool in COMPARED for dim in (None, 256, 64))
    tuned: tuple[Head, ...] = (AVERAGE, *(Head(pool, 256) for pool in COMPARED))
    frozen_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
    tuned_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    extensions: int = 2
    frozen_size: int = 224
    tuned_size: int = 128
    frozen_images: int = 1500
    tuned_images: int = 700
    validation_images: int = 1000
    test_images: int = 2000
    frozen_epochs: int = 5
    tuned_epochs: int = 4
    frozen_seeds: int = 5
    tuned_seeds: int = 5
    batch_size: int = 50
    cost_images: int = 50
    cost_repeats: int = 5
    jobs: int = 2

    def __post_init__(self) -> None:
        """Raise :class:`ValueError` for nothing to compare, no rate, or more images to tune on than are kept."""
        for stage in STAGES:
            heads = self.heads(stage)
            if (heads or stage == FROZEN) and (AVERAGE not in heads or len(set(heads)) < 2):
                names = ", ".join(head.name for head in heads) or "none"
                raise ValueError(f"the {stage} network needs average pooling and another to compare, got {names}")
            if not self.rates(stage):
                raise ValueError(f"there must be a learning rate to choose for the {stage} network, got none")
        if self.tuned_images > self.frozen_images:
            raise ValueError(
                f"tuned_images must be at most frozen_images, {self.frozen_images}, got {self.tuned_images}"
            )

    def heads(self, stage: str) -> tuple[Head, ...]:
        """Return the poolings of a stage."""
        return self.frozen if stage == FROZEN else self.tuned

    def rates(self, stage: str) -> tuple[float, ...]:
        """Return the learning rates that a stage chooses from."""
        return self.frozen_rates if stage == FROZEN else self.tuned_rates

    def seeds(self, stage: str) -> int:
        """Return how many seeds a stage has."""
        return self.frozen_seeds if stage == FROZEN else self.tuned_seeds

    def images(self, stage: str) -> int:
        """Return how many images a stage trains on at most."""
        return self.frozen_images if stage == FROZEN else self.tuned_images

    def epochs(self, stage: str) -> int:
        """Return how many epochs a stage has."""
        return self.frozen_epochs if stage == FROZEN else self.tuned_epochs


# Shows in about two minutes that everything works; its verdicts mean nothing.
SMALL = Settings(
    frozen=(AVERAGE, *(Head(pool, 256) for pool in COMPARED), Head("gcp")), frozen_rates=(0.01, 0.1),
    tuned_rates=(0.01, 0.1), extensions=0, frozen_images=200, tuned_images=100, validation_images=100, test_images=100,
    frozen_epochs=2, tuned_epochs=1, frozen_seeds=2, tuned_seeds=2, cost_images=4, cost_repeats=1,
)  # fmt: skip


@dataclass(frozen=True, order=True)
class Trial:
    """One run to do: ``part`` is "validation" while the learning rate is chosen, "test" afterwards."""

    stage: str
    data: str
    head: Head
    rate: float
    seed: int
    part: str

    def __str__(self) -> str:
        return f"{self.stage}, {self.data}, {self.head.name}, rate {self.rate:g}, seed {self.seed}, {self.part}"


@dataclass(frozen=True)
class Outcome:
    """What a run gave: per cent right and mean cross-entropy on its part, both NaN where the training diverged.

    ``losses`` are the mean training losses of its epochs, ``seconds`` the processor time of training; ``right`` has a
    bit for each image of the part, the first one highest, in hexadecimal.
    """

    accuracy: float
    loss: float
    losses: tuple[float, ...]
    seconds: float
    right: str = ""


def run_trial(trial: Trial, settings: Settings, folder: Path, load_network: Callable[[], Any]) -> Outcome:
    """Do one run; the same arguments give the same figures, but for the seconds.

    Args:
        trial: which.
        settings: of all runs.
        folder: where the images and features are kept.
        load_network: makes the pretrained network.
    """
    kept = load_kept(folder, trial.data)
    torch.manual_seed(trial.seed)
    network, inputs = (frozen if trial.stage == FROZEN else tuned)(trial.head, kept, settings, load_network)
    count = None if trial.stage == FROZEN else settings.tuned_images
    started = time.process_time()
    losses = train(
        network,
        inputs(kept.train),
        kept.train.labels[:count],
        rate=trial.rate,
        epochs=settings.epochs(trial.stage),
        batch_size=settings.batch_size,
        seed=trial.seed,
    )
    seconds = time.process_time() - started
    if not isfinite(losses[-1]):
        return Outcome(nan, nan, tuple(losses), seconds)
    part: Part = getattr(kept, trial.part)
    accuracy, loss, right = judge(network, inputs(part), part.labels)
    return Outcome(accuracy, loss, tuple(losses), seconds, right)


# Indices of images of a part -> what the network is given.
Inputs = Callable[[Tensor], Tensor]


def frozen(
    head: Head, kept: Kept, settings: Settings, load_network: Callable[[], Any]
) -> tuple[nn.Module, Callable[[Part], Inputs]]:
    """Return pooling and classifier, and what gives them the kept features (n, C, h, w) of a part in float32."""
    pooling = head.build(kept.train.features.shape[1])
    network = nn.Sequential(pooling, nn.Linear(pooling.out_features, len(kept.classes)))
    return network, lambda part: lambda chosen: part.features[chosen].float()


def tuned(
    head: Head, kept: Kept, settings: Settings, load_network: Callable[[], Any]
) -> tuple[nn.Module, Callable[[Part], Inputs]]:
    """Return the whole network without its last stride, and what gives it the images of a part."""
    network = load_network()
    classes = len(kept.classes)
    pool = Head("gcp") if head.pool == BASELINE else head
    network = replace_pool(network, classes, pool.dim, pool.pool, keep_stride=False)
    if head == AVERAGE:  # the same trunk, with timm's own pool, which has this name there too
        network.reset_classifier(classes, BASELINE)
    elif head.pool == BASELINE:
        network.global_pool = head.build(network.num_features)
        network.classifier = nn.Linear(network.global_pool.out_features, classes)
    # Twice as fast on a CPU as with the channels first.
    network = network.to(memory_format=torch.channels_last)
    return network, lambda part: lambda chosen: upsampled(part.images[chosen], settings.tuned_size)


def train(
    network: nn.Module, inputs: Inputs, labels: Tensor, *, rate: float, epochs: int, batch_size: int, seed: int
) -> list[float]:
    """Train in place by SGD on cross-entropy; the learning rate falls linearly to zero, step by step.

    Returns:
        The mean loss of each epoch; the last one is not finite, and the training ended, where a step's was not.
    """
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    order = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(labels) // batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    losses: list[float] = []
    network.train()
    for _ in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(labels), generator=order).split(batch_size):
            loss = functional.cross_entropy(network(inputs(chosen)), labels[chosen])
            total += loss.item() * len(chosen)
            if not isfinite(total):
                return [*losses, nan]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        losses.append(total / len(labels))
    return losses


def judge(network: nn.Module, inputs: Inputs, labels: Tensor) -> tuple[float, float, str]:
    """Return per cent right, mean cross-entropy and what is right, in evaluation mode; NaN where a score is none."""
    network.eval()
    with torch.no_grad():
        scores = torch.cat([network(inputs(chosen)) for chosen in torch.arange(len(labels)).split(TEST_BATCH)])
    if not scores.isfinite().all():
        return nan, nan, ""
    right = (scores.argmax(1) == labels).tolist()
    return (
        round(100 * sum(right) / len(right), 2), functional.cross_entropy(scores, labels).item(), as_hexadecimal(right)
    )  # fmt: skip


def as_hexadecimal(right: Sequence[bool]) -> str:
    """Write a bit for each image, the first one highest; :func:`as_bits` reads it."""
    return f"{int(''.join('1' if one else '0' for one in right), 2):0{-(-len(right) // 4)}x}"


def as_bits(right: str, count: int) -> list[int]:
    """Read what :func:`as_hexadecimal` wrote for so many images."""
    return [int(bit) for bit in f"{int(right, 16):0{count}b}"]


def pretrained() -> Any:
    """Load the network of this experiment; a function of a module, which another process can find."""
    return load_pretrained()
