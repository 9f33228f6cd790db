"""Long experiments: runs side by side in processes, each kept as soon as it is done."""

from .log import RUNS, Log, OtherRunsError
from .workers import finished, in_new_process, timed

__all__ = ["RUNS", "Log", "OtherRunsError", "finished", "in_new_process", "timed"]
