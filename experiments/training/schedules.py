"""The three learning-rate schedules of "What Deep CNNs Benefit from Global Covariance Pooling" (CVPR 2020).

With e the epoch, from 1:

- norm: 0.1 to the power of the thirds done, 100 epochs: ten times lower after every 30;
- fast: (1 - (e - 1) / 52)^11, 30 epochs;
- adju: (1 - (e - 1) / 49)^2, 50 epochs, the last of them at rate zero, as published.
"""

from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gcp_kernels.validation import check_at_least, check_choice

_FACTORS: dict[str, Callable[[float], float]] = {
    "norm": lambda done: 0.1 ** (done // 30),
    "fast": lambda done: (1 - done / 52) ** 11,
    "adju": lambda done: (1 - done / 49) ** 2,
}
PUBLISHED_EPOCHS = {"norm": 100, "fast": 30, "adju": 50}
SCHEDULES = tuple(_FACTORS)


def learning_rate_factor(schedule: str, epoch: int, epochs: int | None = None) -> float:
    """Return what the initial learning rate is multiplied by in ``epoch``, counted from 1.

    Args:
        schedule: "norm", "fast" or "adju".
        epoch: 1 to ``epochs``.
        epochs: how many there are; ``None`` for as many as published. With another number the published curve is
            stretched over it: its first epoch is the published first one, its last the published last one.

    Raises:
        TypeError, ValueError: an unknown schedule, or an epoch that is none of the schedule's.
    """
    check_choice("schedule", schedule, SCHEDULES)
    published = PUBLISHED_EPOCHS[schedule]
    count = published if epochs is None else epochs
    check_at_least("epochs", count, 1)
    check_at_least("epoch", epoch, 1)
    if epoch > count:
        raise ValueError(f"epoch must be at most {count}, the number of epochs, got {epoch}")
    # In this order: with the published number of epochs the quotient is exact, and the steps of "norm" where they were.
    done = (epoch - 1) * (published - 1) / (count - 1) if count > 1 else 0.0
    return _FACTORS[schedule](done)


def scheduler(schedule: str, optimizer: Optimizer, epochs: int, steps_in_epoch: int) -> LambdaLR:
    """Make torch's scheduler, to be stepped after every optimiser step; the rate changes between epochs only."""
    check_at_least("steps_in_epoch", steps_in_epoch, 1)

    def factor(step: int) -> float:
        # After the last step of all torch asks for the rate of one more.
        return learning_rate_factor(schedule, min(step // steps_in_epoch + 1, epochs), epochs)

    return LambdaLR(optimizer, factor)
