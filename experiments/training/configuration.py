"""Everything that decides how a training run ends, and the defaults that are published for it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from gcp_kernels.validation import check_at_least, check_choice, check_not_negative, check_positive

from ..datasets import digits
from .mixed_precision import MixedPrecision
from .networks import POOLS
from .resnets import ARCHITECTURES
from .schedules import PUBLISHED_EPOCHS, SCHEDULES

DIGITS = "digits"
SEEDS = 2**63  # of torch, from 0


@dataclass(frozen=True)
class TrainingConfig:
    """Options of a run; :meth:`from_options` has the defaults.

    Attributes:
        data: "digits", or the path of a folder of images.
        arch: a ResNet for a folder of images, ``None`` for the digits, which have a small CNN of their own.
        image_size: height and width in a folder of images, ``None`` for the digits.
        pool: one of ``POOLS``.
        schedule: one of ``SCHEDULES``.
        epochs: over how many the schedule is stretched.
        lr: the initial learning rate.
        momentum: of SGD.
        weight_decay: of SGD.
        batch_size: images of a step, over all processes.
        seed: of weights, order, augmentation and dropout.
        device: "cpu", "cuda:0", ...; of several processes each takes a GPU of its own.
        amp: "bf16", "fp16" or ``None``.
        compile: whether the network is compiled for training.
        landscape_every: steps from one recording of the loss landscape to the next, ``None`` for none.
        skip_damaged: whether images of a folder that cannot be decoded are left out.
        processes: how many train together.

    Raises:
        TypeError, ValueError: an option has no such value, or does not go with another one; the message names it.

    Example:
        >>> from experiments.training.configuration import TrainingConfig
        >>> config = TrainingConfig.from_options({"schedule": "fast", "device": "cpu"}, processes=1)
        >>> config.pool, config.epochs, config.lr, config.batch_size
        ('gcp', 30, 0.1, 30)
    """

    data: str
    arch: str | None
    image_size: int | None
    pool: str
    schedule: str
    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int
    seed: int
    device: str
    amp: str | None
    compile: bool
    landscape_every: int | None
    skip_damaged: bool
    processes: int

    def __post_init__(self) -> None:
        for name in ("data", "device"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a str, got {getattr(self, name)!r}")
        for name in ("compile", "skip_damaged"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if self.data == DIGITS:
            for name in ("arch", "image_size"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} is for folders of images; the digits have a small CNN and 8x8 pixels, "
                        f"got {getattr(self, name)!r}"
                    )
            if self.skip_damaged:
                raise ValueError("skip_damaged is for folders of images; the digits are not decoded from files")
        else:
            check_choice("arch", self.arch, ARCHITECTURES)
            check_at_least("image_size", self.image_size, 1)  # type: ignore[arg-type]  # None is refused by it
        check_choice("pool", self.pool, POOLS)
        check_choice("schedule", self.schedule, SCHEDULES)
        for name in ("epochs", "batch_size", "processes"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("seed", self.seed, 0)
        if self.seed >= SEEDS:
            raise ValueError(f"seed must be below {SEEDS}, got {self.seed}")
        check_positive("lr", self.lr)
        check_not_negative("momentum", self.momentum)
        if self.momentum >= 1:
            raise ValueError(f"momentum must be below 1, got {self.momentum}")
        check_not_negative("weight_decay", self.weight_decay)
        if self.landscape_every is not None:
            check_at_least("landscape_every", self.landscape_every, 1)
        if self.batch_size % self.processes:
            raise ValueError(
                f"batch_size must be a multiple of the number of processes, {self.processes}, got {self.batch_size}"
            )
        try:
            device = torch.device(self.device)
        except RuntimeError:
            raise ValueError(f"device must be the name of one, such as cpu or cuda:0, got {self.device!r}") from None
        MixedPrecision(self.amp, device)

    @classmethod
    def from_options(cls, given: Mapping[str, Any], processes: int) -> "TrainingConfig":
        """Make the run with these options, by attribute, and the defaults of the others.

        Epochs are as many as published for the schedule; SGD with momentum 0.9 and weight decay 1e-4 starts at 0.1.
        """
        folder = given.get("data", DIGITS) != DIGITS
        defaults: dict[str, Any] = {
            "data": DIGITS,
            "arch": "resnet18" if folder else None,
            "image_size": 224 if folder else None,
            "pool": "gcp",
            "schedule": "norm",
            "epochs": PUBLISHED_EPOCHS[given.get("schedule", "norm")],
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "batch_size": 256 if folder else digits.BATCH_SIZE,
            "seed": 0,
            "device": "cuda:0" if torch.cuda.is_available() else "cpu",
            "amp": None,
            "compile": False,
            "landscape_every": None,
            "skip_damaged": False,
        }
        return cls(**{**defaults, **given}, processes=processes)

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any], given: Mapping[str, Any], processes: int) -> "TrainingConfig":
        """Make the run that :meth:`to_save` described; options that are given too must be the same.

        Raises:
            ValueError: an option differs, all of them are named; or the description is not of this version; or an
                option has no such value.
        """
        names = {field.name for field in fields(cls)}
        if set(saved) != names:
            raise ValueError(
                f"the saved options are of another version: {', '.join(sorted(set(saved) ^ names))}; train again in "
                "another folder, or go on with the version of gcp_kernels that wrote them"
            )
        asked = {**given, "processes": processes}
        different = [
            f"{name} is {saved[name]!r} in the saved run, not {value!r}"
            for name, value in asked.items()
            if saved[name] != value
        ]
        if different:
            raise ValueError(f"a resumed run keeps its options: {'; '.join(different)}")
        try:
            return cls(**saved)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the saved options are none that a run can have: {error}") from error

    def to_save(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)
