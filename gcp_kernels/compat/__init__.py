"""The names, arguments and shapes of code that people carry with them, on top of this package."""

from . import mpncov

__all__ = ["mpncov"]
