"""One planted fault: a slip that a developer could make, and the tests that are responsible for it."""

from dataclasses import dataclass

LAYERS = (
    "reference",
    "operators",
    "torch",
    "triton",
    "cuda",
    "layers",
    "integrations",
    "export",
    "compat",
    "analysis",
    "experiments",
    "commands",
    "benchmarks",
    "build",
)


@dataclass(frozen=True)
class Fault:
    """A text of a file, and what is written in its place.

    Attributes:
        name: the fault in words.
        layer: one of :data:`LAYERS`.
        file: path from the root of the checkout, or the name alone of a file of ``benchmarks``, in any folder of it.
        text: what stands there; it must be in the file once.
        replacement: what is planted instead.
        tests: base names of the test files, in any folder of ``tests``.
        select: what pytest gets as ``-k``; empty for whole files.
    """

    name: str
    layer: str
    file: str
    text: str
    replacement: str
    tests: tuple[str, ...]
    select: str = ""


class PlantingError(Exception):
    """A fault that cannot be planted, or whose tests are not there: the list has to be brought up to date."""
