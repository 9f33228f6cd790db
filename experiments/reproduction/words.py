"""Numbers and tables in words, for reports in Markdown."""

from collections.abc import Iterable, Sequence
from math import floor, isfinite, isinf, isnan, log10


def over_seeds(figures: Sequence[float], mean: float, deviation: float, infinite: str) -> str:
    """Write :func:`plus_minus`; or, where figures are infinite or no number, in how many seeds they are."""
    parts = [
        f"{word} in {count} of {plural(len(figures), 'seed')}"
        for word, count in ((infinite, sum(map(isinf, figures))), ("no number", sum(map(isnan, figures))))
        if count
    ]
    return ", ".join(parts) or plus_minus(mean, deviation)


def plus_minus(mean: float, deviation: float) -> str:
    """Write mean and deviation to two digits of the deviation; without a deviation the mean to three digits.

    One digit more where the mean would be a zero that it is not.
    """
    if not isfinite(mean):
        return "no number" if isnan(mean) else "infinite"
    scale = deviation if isfinite(deviation) and deviation > 0 else abs(mean) / 10
    decimals = min(6, max(0, 1 - floor(log10(scale)))) if scale else 0
    if mean and not float(f"{mean:.{decimals}f}"):
        decimals += 1
    text = f"{mean:.{decimals}f}"
    if not float(text):
        text = text.removeprefix("-")
    return text + (f" ± {deviation:.{decimals}f}" if isfinite(deviation) else "")


def plural(number: int, noun: str) -> str:
    """Write the number and its noun, in the plural unless the number is one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| --- ", "|---").replace("|--- |", "|---|")


def paragraph(text: str) -> str:
    """Put text on one line, however it was broken in the source."""
    return " ".join(text.split())


def capital(sentence: str) -> str:
    """Write the first letter large, and leave the others."""
    return sentence[:1].upper() + sentence[1:]


def listed_and(words: Sequence[str]) -> str:
    """Write "a", "a and b", "a, b and c"."""
    return " and ".join([*([", ".join(words[:-1])] if words[:-1] else []), *words[-1:]])
