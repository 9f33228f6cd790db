"""Two pictures: accuracy of every pooling with one point for each seed, and what the poolings cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gcp_kernels.nn.poolings import POOLINGS

from ..reproduction.pictures import write_png
from .costs import ON_CHANNELS, ON_CHANNELS_LABEL
from .results import Results

COLORS = {pool: f"C{number}" for number, pool in enumerate(POOLINGS)}


def write_plots(folder: Path, results: Results) -> None:
    """Draw ``accuracy.png`` and ``costs.png`` into an existing folder."""
    for name, draw in {"accuracy": accuracy, "costs": costs}.items():
        # The figure is made without pyplot: no display is needed and no global state of matplotlib changes.
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")
        draw(figure, results)
        write_png(folder / f"{name}.png", figure, dpi=90)


def accuracy(figure: Any, results: Results) -> None:
    """Draw test accuracy: a row of axes for each data set, a column for each network; the bar is the mean."""
    stages = list(dict.fromkeys(stage for _, stage in results.comparisons()))
    data = results.settings.data
    figure.set_size_inches(4.5 * len(stages), 2.6 * len(data))
    axes = figure.subplots(len(data), len(stages), squeeze=False, sharex="row")
    for row, name in zip(axes, data, strict=True):
        for plot, stage in zip(row, stages, strict=True):
            heads = results.settings.heads(stage)
            for place, head in enumerate(heads):
                values = results.accuracies(stage, name, head)
                plot.scatter(values, [place] * len(values), s=14, color=COLORS[head.pool], alpha=0.7)
                plot.plot([sum(values) / len(values)] * 2, [place - 0.3, place + 0.3], color=COLORS[head.pool])
            plot.set_yticks(range(len(heads)), [head.label for head in heads], fontsize="small")
            plot.invert_yaxis()
            plot.set_title(f"{name}, {stage}", fontsize="medium")
            plot.set(xlabel="test accuracy (%)")
            plot.grid(alpha=0.3)


def costs(figure: Any, results: Results) -> None:
    """Draw milliseconds and MiB of each pooling on logarithmic axes."""
    figure.set_size_inches(9.0, 3.2)
    labels = {**{head.name: head.label for head in results.settings.frozen}, ON_CHANNELS: ON_CHANNELS_LABEL}
    pools = {**{head.name: head.pool for head in results.settings.frozen}, ON_CHANNELS: "none"}
    names = list(results.costs)
    for plot, (unit, label) in zip(
        figure.subplots(1, 2, sharey=True),
        {"milliseconds": "ms an image", "mebibytes": "MiB an image"}.items(),
        strict=True,
    ):
        lengths = [getattr(results.costs[name], unit) for name in names]
        plot.barh(range(len(names)), lengths, color=[COLORS[pools[name]] for name in names])
        plot.set_yticks(range(len(names)), [labels[name] for name in names], fontsize="small")
        plot.set(xlabel=f"{label}, forward and backward")
        if all(length > 0 for length in lengths):  # the memory of small ones can be none, or not known
            plot.set(xscale="log")
        plot.grid(alpha=0.3, axis="x")
    plot.invert_yaxis()
