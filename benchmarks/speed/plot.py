"""``python -m benchmarks plot DIR``: draw a run; PNG files, in the folder of the run unless told otherwise."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gcp_kernels.commands.atomic_files import write_atomically

from ..peers.providers import PROVIDERS
from ..rows import Row, Run, read

# One colour for each provider in every plot; ours are the dark ones.
COLOURS = dict(
    zip(
        [provider.name for provider in PROVIDERS],
        (
            *("#08306b", "#2171b5", "#4292c6", "#a50f15", "#ef6548", "#238b45", "#807dba", "#bcbddc", "#8c6d31"),
            *("#bd9e39", "#969696"),
        ),
        strict=True,
    )
)
OTHER = "#555555"
DPI = 80


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw every plot that the run has rows for; 0 if there is any, 2 otherwise or without matplotlib."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks plot", description="Draw the results of a run.")
    parser.add_argument("run", type=Path, metavar="DIR", help="folder of a run, or its file of JSON lines")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the plots (that of the run)")
    args = parser.parse_args(arguments)
    try:
        run = read(args.run)
        # The figures are made without pyplot: no display is needed and no global state of matplotlib changes.
        importlib.import_module("matplotlib.figure")
    except ValueError as error:
        print(f"python -m benchmarks plot: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"python -m benchmarks plot needs matplotlib (pip install matplotlib): {error}", file=sys.stderr)
        return 2
    own = args.run if args.run.is_dir() else args.run.parent
    folder = args.output or own
    # Beside their rows plots can be drawn again at any time; elsewhere they may be of another run.
    there = [path for name in PLOTS if (path := folder / f"{name}.png").exists()]
    if there and folder.resolve() != own.resolve():
        print(f"python -m benchmarks plot: --output {folder}: {there[0].name} is there already", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    drawn = 0
    for name, draw in PLOTS.items():
        figure = draw(run)
        if figure is None:
            print(f"{name}: the run has no rows for it")
            continue
        write_atomically(folder / f"{name}.png", partial(figure.savefig, format="png", dpi=DPI))
        print(folder / f"{name}.png")
        drawn += 1
    return 0 if drawn else 2


def figure_of(run: Run, title: str, width: float = 7.0) -> tuple[Any, Any]:
    """Make a figure with one set of axes, and the machine below the title."""
    figure = importlib.import_module("matplotlib.figure").Figure(figsize=(width, 4.6), layout="constrained")
    axes = figure.subplots()
    setting = run.environment
    machine = str(setting["device"])
    if setting["device_type"] == "cpu":
        machine += f", {setting['threads']} thread{'s' if setting['threads'] > 1 else ''}"
    figure.suptitle(title, fontsize=11)
    commits = ", ".join(dict.fromkeys(one["commit"] for one in run.environments))
    axes.set_title(f"{machine}, torch {setting['torch']}, commit {commits}", fontsize=8)
    return figure, axes


def rows_of(run: Run, group: str, figure: str) -> list[Row]:
    """Choose the training steps of a group that have a figure above zero: a logarithmic axis has no place for zero."""
    return [row for row in run.rows if row.group == group and row.direction == "both" and getattr(row, figure)]


def names_of(rows: Sequence[Row]) -> list[str]:
    """List the providers with a row, in the order of the registry."""
    return [name for name in COLOURS if any(row.provider == name for row in rows)]


def against(group: str, x: str, axis: str, y: str, unit: str, scale: float = 1.0) -> Callable[[Run], Any]:
    """Plot one field of a sweep's rows against another, both logarithmic, with a line for each provider."""

    def draw(run: Run) -> Any:
        rows = rows_of(run, group, y)
        if len({getattr(row, x) for row in rows}) < 2:
            return None
        figure, axes = figure_of(run, f"{unit}, forward and backward: {common(rows, x)}")
        for name in names_of(rows):
            points = sorted((getattr(row, x), getattr(row, y) / scale) for row in rows if row.provider == name)
            axes.plot(*zip(*points, strict=True), "o-", label=name, color=COLOURS[name], linewidth=1.4, markersize=4)
            spread = [(getattr(row, x), row.low, row.high) for row in rows if row.provider == name and row.low]
            if y == "milliseconds" and spread:
                where, low, high = zip(*sorted(spread), strict=True)
                axes.fill_between(where, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
        axes.set(xscale="log", yscale="log", xlabel=axis, ylabel=unit)
        ticks = sorted({getattr(row, x) for row in rows})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.grid(True, alpha=0.3)
        axes.legend(fontsize=8)
        return figure

    return draw


def common(rows: Sequence[Row], swept: str) -> str:
    """Say what all rows of a sweep have in common, such as "C = 256, M = 196, N = 5, float32 high"."""
    letters = {"batch": "B", "channels": "C", "positions": "M", "n_iter": "N"}
    fixed = [f"{letter} = {getattr(rows[0], name)}" for name, letter in letters.items() if name != swept]
    return ", ".join([*fixed, f"{rows[0].dtype} {rows[0].precision}"])


def bars(group: str, value: Callable[[Row], float | None], title: str, unit: str) -> Callable[[Run], Any]:
    """Plan bars of a figure: a cluster for each case of a group, in it a bar for each provider."""

    def draw(run: Run) -> Any:
        rows = [row for row in run.rows if row.group == group and value(row) is not None]
        rows = [row for row in rows if row.direction == "both"] if unit == "times" else rows
        labels = list(dict.fromkeys(row.label for row in rows))
        if not labels:
            return None
        figure, axes = figure_of(run, title, width=max(7.0, 1.1 * len(labels)))
        names = names_of(rows)
        for position, name in enumerate(names):
            points = [(labels.index(row.label), value(row) or 0.0) for row in rows if row.provider == name]
            places = [place + (position - (len(names) - 1) / 2) * 0.8 / len(names) for place, _ in points]
            drawn = axes.bar(
                places, [height for _, height in points], 0.8 / len(names), label=name, color=COLOURS[name]
            )
            written = [f"{height:.2g}" if height < 10 else f"{height:.0f}" for _, height in points]
            axes.bar_label(drawn, written, fontsize=6, rotation=90, padding=2)
        axes.set_xticks(range(len(labels)), [wrapped(label) for label in labels], fontsize=7)
        axes.set_ylabel(unit)
        axes.margins(y=0.15)
        axes.grid(True, axis="y", alpha=0.3)
        axes.legend(fontsize=7)
        if unit == "times":
            axes.axhline(1.0, color="black", linewidth=0.8)
        return figure

    return draw


def wrapped(label: str) -> str:
    """Write a case's label on three lines."""
    shape, n_iter, dtype, precision, direction = label.split()
    return f"{shape}\n{n_iter} {dtype}\n{precision} {direction}"


def slowdown(row: Row) -> float | None:
    """Time over ours, of the others."""
    return None if row.provider == row.baseline or row.truth == "mean" else row.ratio


def peak_memory(group: str) -> Callable[[Run], Any]:
    """Plan a plot of peak memory. Peaks have their own group on a CPU, where they are measured in fresh processes."""
    return against(group, "batch", "batch B", "peak_bytes", "MiB at the peak", 2**20)


PLOTS: dict[str, Callable[[Run], Any]] = {
    "time_against_batch": against("batch", "batch", "batch B", "milliseconds", "milliseconds"),
    "time_against_channels": against("channels", "channels", "channels C", "milliseconds", "milliseconds"),
    "time_against_positions": against("positions", "positions", "positions M", "milliseconds", "milliseconds"),
    "time_against_iterations": against("iterations", "n_iter", "iterations N", "milliseconds", "milliseconds"),
    "speed_up": bars("network", slowdown, "How many times longer than gcp_kernels", "times"),
    "roofline": bars("network", lambda row: row.fraction and 100 * row.fraction, "Share of the roofline", "per cent"),
    "kept_memory_against_batch": against("batch", "batch", "batch B", "saved_bytes", "MiB kept for backward", 2**20),
    "peak_memory_against_batch": lambda run: peak_memory("memory")(run) or peak_memory("batch")(run),
}
