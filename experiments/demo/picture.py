"""The demo's picture: test accuracy and training loss of both poolings over the epochs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from gcp_kernels.commands.atomic_files import write_atomically

from ..training import Epoch

FORMATS = (".png", ".pdf", ".svg")


def plot_path_problem(path: Path) -> str | None:
    """Say why a plot cannot be written to ``path``, as a sentence fragment; None when it can."""
    if path.suffix.lower() not in FORMATS:
        return f"the name must end in {', '.join(FORMATS)}"
    if path.is_dir():
        return "it is a directory"
    if not path.parent.is_dir():
        return f"{path.parent} is not an existing directory"
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return "no permission to write there"
    return None


def plot(curves: Mapping[str, Sequence[Epoch]], title: str, path: Path) -> None:
    """Draw one line per curve (label -> epochs) into ``path``; its suffix chooses the format.

    Raises:
        NotWrittenError: the file cannot be written, on a full disk for example.
    """
    # The figure is made without pyplot: no display is needed and no global state of matplotlib changes.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    figure.suptitle(title)
    accuracy_axes, loss_axes = figure.subplots(1, 2)
    for label, epochs in curves.items():
        numbers = range(1, len(epochs) + 1)
        accuracy_axes.plot(numbers, [epoch.accuracy for epoch in epochs], "o-", markersize=3, label=label)
        loss_axes.plot(numbers, [epoch.loss for epoch in epochs], "o-", markersize=3, label=label)
    # Early epochs would squeeze the part where the poolings differ into a few pixels.
    final = min(epochs[-1].accuracy for epochs in curves.values())
    accuracy_axes.set(xlabel="epoch", ylabel="accuracy on held-out images (%)", ylim=(min(85.0, final - 5.0), 100.2))
    loss_axes.set(xlabel="epoch", ylabel="training loss", yscale="log")
    for axes in (accuracy_axes, loss_axes):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    suffix = path.suffix.lower()[1:]
    write_atomically(path, lambda file: figure.savefig(file, format=suffix, dpi=150))
