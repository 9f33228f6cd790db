"""Pictures after the papers' figures: bands along the gradient, convergence, robustness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from gcp_kernels.nn.poolings import POOLINGS

from ..training import BACKBONES
from .claims import spread
from .corruptions import STRENGTHS
from .figures import accuracy_at, corruptions_of, mean_accuracy
from .pictures import write_png
from .runs import Run

LABELS = {name: pooling.label for name, pooling in POOLINGS.items()}
SIZE = (9.0, 3.6)  # inches
Drawing = Callable[[Any, Sequence[Run]], None]
COLORS = {pool: f"C{number}" for number, pool in enumerate(LABELS)}


def write_plots(folder: Path, runs: Sequence[Run]) -> list[Path]:
    """Draw what was measured: ``convergence.png``, ``robustness.png``, and ``landscape-NETWORK.png`` of each network.

    Those of the landscape where walks were recorded.
    """
    networks = list(dict.fromkeys(run.network for run in runs))
    drawings: dict[str, tuple[Drawing, list[str]]] = {
        "convergence": (convergence, networks), "robustness": (robustness, networks),
    }  # fmt: skip
    if all(run.walks for run in runs):
        drawings |= {f"landscape-{network}": (landscape, [network]) for network in networks}
    paths = []
    for name, (draw, shown) in drawings.items():
        paths.append(folder / f"{name}.png")
        figure = drawn(draw, [[run for run in runs if run.network == network] for network in shown])
        write_png(paths[-1], figure, dpi=90)
    return paths


def drawn(draw: Drawing, runs_of_networks: Sequence[Sequence[Run]]) -> Any:
    """Draw a figure that has a part for each network, one below the other, with its name where there are several."""
    # The figure is made without pyplot: no display is needed and no global state of matplotlib changes.
    from matplotlib.figure import Figure

    heights = 1.5 if draw is landscape else 1.0
    width = max(SIZE[0], 2.3 * len(_pools(runs_of_networks[0]))) if draw is landscape else SIZE[0]
    figure = Figure(figsize=(width, heights * SIZE[1] * len(runs_of_networks)), layout="constrained")
    parts = figure.subfigures(len(runs_of_networks), 1, squeeze=False)[:, 0]
    for part, runs in zip(parts, runs_of_networks, strict=True):
        if len(runs_of_networks) > 1:
            part.suptitle(BACKBONES[runs[0].network].title, fontsize="medium", fontweight="bold")
        draw(part, runs)
    return figure


def landscape(figure: Any, runs: Sequence[Run]) -> None:
    """Draw the bands of loss and gradient distance over the walk, by training step; their ends are means over seeds.

    One column for each pooling, for bands cover each other, with one scale in a row.
    """
    pools = _pools(runs)
    rows_of_axes = figure.subplots(2, len(pools), sharex=True, sharey="row", squeeze=False)
    for row_of_axes, quantity, label in zip(
        rows_of_axes, ("loss", "distance"), ("loss", "change of gradient"), strict=True
    ):
        for axes, pool in zip(row_of_axes, pools, strict=True):
            seeds = [run.walks for run in runs if run.pool == pool]
            low, high = (
                [fmean(row[f"{quantity}_{end}"] for row in rows) for rows in zip(*seeds, strict=True)]
                for end in ("min", "max")
            )
            steps = [row["step"] for row in seeds[0]]
            axes.fill_between(steps, low, high, alpha=0.35, color=COLORS[pool])
            axes.plot(steps, high, color=COLORS[pool], linewidth=1)
            axes.plot(steps, low, color=COLORS[pool], linewidth=1)
            axes.grid(alpha=0.3)
        row_of_axes[0].set(ylabel=f"{label},\nalong the gradient", ylim=(0, None))
    for axes, pool in zip(rows_of_axes[0], pools, strict=True):
        axes.set_title(LABELS[pool], fontsize="medium")
    for axes in rows_of_axes[1]:
        axes.set(xlabel="training step")


def convergence(figure: Any, runs: Sequence[Run]) -> None:
    """Draw test accuracy and training loss by epoch: mean over seeds, and one standard deviation to each side.

    On the logarithmic axis of the loss no further down than the lowest seed, for the deviation may exceed the mean.
    """
    from matplotlib.ticker import MaxNLocator

    accuracy_axes, loss_axes = figure.subplots(1, 2)
    finals, tops = [], []
    for pool in _pools(runs):
        curves = [run.epochs for run in runs if run.pool == pool]
        finals.append(fmean(curve[-1].accuracy for curve in curves))
        for axes, quantity in ((accuracy_axes, "accuracy"), (loss_axes, "loss")):
            points = [[getattr(epoch, quantity) for epoch in epochs] for epochs in zip(*curves, strict=True)]
            means = [fmean(values) for values in points]
            deviations = [spread(values) if len(values) > 1 else 0.0 for values in points]
            numbers = range(1, len(means) + 1)
            axes.plot(numbers, means, "o-", markersize=3, color=COLORS[pool], label=LABELS[pool])
            low, high = ([m + sign * s for m, s in zip(means, deviations, strict=True)] for sign in (-1, 1))
            if quantity == "loss":
                low = [max(end, min(values)) for end, values in zip(low, points, strict=True)]
            else:
                tops += high
            axes.fill_between(numbers, low, high, alpha=0.2, color=COLORS[pool])
    # Early epochs would squeeze the part where the poolings differ into a few pixels.
    lowest, highest = max(0.0, min(80.0, min(finals) - 10.0)), min(100.5, max(tops) + 10.0)
    accuracy_axes.set(xlabel="epoch", ylabel="test accuracy (%)", ylim=(lowest, highest))
    loss_axes.set(xlabel="epoch", ylabel="training loss", yscale="log")
    for axes in (accuracy_axes, loss_axes):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()


def robustness(figure: Any, runs: Sequence[Run]) -> None:
    """Draw accuracy by corruption, and by strength, each a mean over the other; lines are standard deviations."""
    groups: dict[str, dict[str, Callable[[Run], float]]] = {
        "mean of five strengths": {name: partial(mean_accuracy, name=name) for name in corruptions_of(runs)},
        "strength, mean of the corruptions": {
            str(strength): partial(accuracy_at, strength=strength) for strength in STRENGTHS
        },
    }
    pools = _pools(runs)
    width = 0.8 / len(pools)
    for axes, (title, bars) in zip(figure.subplots(1, 2), groups.items(), strict=True):
        for number, pool in enumerate(pools):
            values = [[value(run) for run in runs if run.pool == pool] for value in bars.values()]
            places = [place + (number - (len(pools) - 1) / 2) * width for place in range(len(bars))]
            errors = [spread(seeds) if len(seeds) > 1 else 0.0 for seeds in values]
            heights = [fmean(seeds) for seeds in values]
            axes.bar(places, heights, width, yerr=errors, color=COLORS[pool], label=LABELS[pool], capsize=2)
        axes.set_xticks(range(len(bars)), list(bars))
        axes.set(xlabel=title, ylabel="test accuracy (%)", ylim=(0, 105), yticks=range(0, 101, 20))
        axes.grid(alpha=0.3, axis="y")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(pools)), fontsize="small")


def _pools(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.pool for run in runs))
