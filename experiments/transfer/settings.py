"""What the experiment of transfer runs, and how large."""

from dataclasses import dataclass, field

from gcp_kernels.nn.poolings import BASELINE, PUBLISHED_POOLINGS
from gcp_kernels.validation import check_at_least, check_choice, check_positive

from .scenes import Layout

DATA = "mnist"
# A trunk that no classifier was trained on.
RANDOM = "random"
POOLS = (BASELINE, *PUBLISHED_POOLINGS)


@dataclass(frozen=True)
class Settings:
    """What is run; the defaults take two to five hours of one core, half of that on two.

    Attributes:
        pools: the trunks' poolings; average pooling is one, and a trunk of random weights is added.
        seeds: how many, from 0; they vary weights, single digits, training scenes, their order and what is sampled.
        dim: channels after the reduction before a covariance.
        single: how single digits are drawn for the classifier.
        digits: single digits of an epoch.
        classifier_epochs: passes over so many.
        classifier_batch: of them in a step.
        classifier_rates: largest learning rates of the classifier, of which each pooling gets the one with which it
            knows most digits of the validation part, from a seed that is not reported.
        detector_rates: largest learning rates of the detectors, of which each trunk gets for both the one with which
            Mask R-CNN has the highest average precision of masks on scenes of the validation part, from that seed.
        test_digits: single digits that classifiers are chosen by, and others that they are tested on.
        layout: how scenes are drawn.
        scenes: to fine-tune on.
        epochs: passes over them.
        batch: scenes in a step.
        test_scenes: that average precision is measured on, and as many others that rates are chosen by.
        test_every: epochs from one measurement to the next; the last epoch has one too.
        jobs: runs at the same time, in a process of one thread each; they do not change what comes out.

    Raises:
        ValueError: a number that is not in its range, average pooling missing, or single digits that are several.
    """

    pools: tuple[str, ...] = POOLS
    seeds: int = 5
    dim: int = 64
    single: Layout = field(default=Layout(64, (1, 1), (24, 56)))
    digits: int = 2000
    classifier_epochs: int = 4
    classifier_batch: int = 32
    classifier_rates: tuple[float, ...] = (0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2)
    detector_rates: tuple[float, ...] = (0.0005, 0.001, 0.002, 0.004)
    test_digits: int = 2000
    layout: Layout = field(default=Layout(96, (2, 5), (24, 56)))
    scenes: int = 128
    epochs: int = 15
    batch: int = 4
    test_scenes: int = 400
    test_every: int = 5
    jobs: int = 2

    def __post_init__(self) -> None:
        """Raise for what cannot be run."""
        for pool in self.pools:
            check_choice("pools", pool, POOLS)
        if BASELINE not in self.pools:
            raise ValueError(f"pools must have {BASELINE!r}, with which the others are compared, got {self.pools}")
        for name in (
            *("seeds", "dim", "digits", "classifier_epochs", "classifier_batch", "test_digits", "scenes", "epochs"),
            *("batch", "test_scenes", "test_every", "jobs"),
        ):
            check_at_least(name, getattr(self, name), 1)
        for name in ("classifier_rates", "detector_rates"):
            rates = getattr(self, name)
            if not rates:
                raise ValueError(f"{name} must have one rate at least, got none")
            for rate in rates:
                check_positive(name, rate)
        if self.single.digits != (1, 1):
            raise ValueError(f"single must have one digit, got from {self.single.digits[0]} to {self.single.digits[1]}")

    @property
    def trunks(self) -> tuple[str, ...]:
        return (*self.pools, RANDOM)


# Shows in about two minutes that everything works.
SMALL = Settings(
    seeds=2,
    dim=16,
    digits=64,
    classifier_epochs=1,
    classifier_rates=(0.1,),
    detector_rates=(0.001,),
    test_digits=100,
    scenes=12,
    epochs=2,
    test_scenes=10,
    test_every=1,
)
