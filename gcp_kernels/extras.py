"""The packages that this one needs for a part of it only: how they are installed, and what is said without them."""

import importlib
from typing import Any


def how_to_install(*extras: str) -> str:
    """Return the command for extras of pyproject.toml. The package is in no index, so it is given from its checkout.

    It is editable because experiments and benchmarks run in the checkout, and there find only what is built in place.
    """
    return f'pip install --no-build-isolation --editable ".[{",".join(extras)}]" in a checkout of the repository'


# What an import raises of a package that is not there, or was built for another torch: torchvision then raises a
# RuntimeError, because an operator does not exist.
IMPORT_ERRORS = (ImportError, RuntimeError)


def why_not_imported(*extras: str) -> str:
    """Say why an import failed and what to install, after "it is": there are the two reasons of ``IMPORT_ERRORS``."""
    return f"not installed ({how_to_install(*extras)}) or was built for another torch than the one that is"


def import_torchvision(user: str, module: str) -> Any:
    """Import a module of torchvision.

    Args:
        user: what needs it, with its verb: the message begins with that.
        module: its name within torchvision.

    Raises:
        ImportError: torchvision is not installed, or does not load beside this torch.
    """
    try:
        # The package by itself first: a module of it may be loaded already where the package itself no longer is.
        importlib.import_module("torchvision")
        return importlib.import_module(f"torchvision.{module}")
    except IMPORT_ERRORS as error:
        raise ImportError(
            f"{user} torchvision, which cannot be imported here: it is {why_not_imported('models')}"
        ) from error
