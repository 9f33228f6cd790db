"""Long experiments: runs side by side in processes, each kept as soon as it is done."""

from .log import RUNS, Log, OtherRunsError
from .workers import finished, timed

__all__ = ["RUNS", "Log", "OtherRunsError", "finished", "timed"]
