"""Long experiments: runs side by side in processes, each kept as soon as it is done."""

from .log import Log, OtherRunsError
from .workers import finished, timed

__all__ = ["Log", "OtherRunsError", "finished", "timed"]
