"""A seed that is far from the others, on which a mean and its deviation then rest."""

from collections.abc import Iterable, Sequence
from math import isfinite
from statistics import median

from .claims import SEEDS_TO_SUPPORT, spread

# Of the deviation, what is left at most without that seed.
LEFT = 1 / 4


def far_from_the_others(figures: Sequence[float]) -> tuple[float, list[float]] | None:
    """Return the one figure without which a quarter of the deviation is left at most, and the others.

    ``None`` if there is none such, a figure is not finite, or the others are fewer than a verdict takes.
    """
    if len(figures) <= SEEDS_TO_SUPPORT or not all(map(isfinite, figures)):
        return None
    middle = median(figures)
    far = max(figures, key=lambda figure: abs(figure - middle))
    others = list(figures)
    others.remove(far)
    return (far, others) if spread(others) < LEFT * spread(figures) else None


def sentence(figures_of: Iterable[tuple[str, Sequence[float]]], unit: str = "") -> str:
    """Name what has a seed far from the others, with its figures; nothing if none has.

    Args:
        figures_of: what, in words, and its figures.
        unit: behind the figures.
    """
    found = [
        f"{what} ({far:.3g}{unit}, the others {min(others):.3g} to {max(others):.3g}{unit})"
        for what, figures in figures_of
        if (split := far_from_the_others(figures)) is not None
        for far, others in (split,)
    ]
    return f"One seed is far from the others: {'; '.join(found)}." if found else ""
