"""Long experiments: runs side by side in processes, each kept as soon as it is done."""

from .log import RUNS, Log, OtherRunsError
from .workers import Workers, finished, in_new_process, termination_interrupts, timed

__all__ = [
    "RUNS",
    "Log",
    "OtherRunsError",
    "Workers",
    "finished",
    "in_new_process",
    "termination_interrupts",
    "timed",
]
