"""Two pictures: average precision over the fine-tuning, and some of the scenes with what is to be found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from gcp_kernels.nn.poolings import POOLINGS

from ..reproduction.claims import spread
from ..reproduction.pictures import write_png
from .detectors import DETECTORS
from .experiment import COMPARED, Run
from .scenes import Scene
from .settings import RANDOM
from .verdicts import of_trunk, trunks_of

LABELS = {**{name: pooling.label for name, pooling in POOLINGS.items()}, RANDOM: "random weights"}
COLORS = {name: f"C{number}" for number, name in enumerate(POOLINGS)} | {RANDOM: "gray"}
SHOWN = 5


def write_plots(folder: Path, runs: Sequence[Run], scenes: Sequence[Scene]) -> None:
    """Draw ``precision.png`` and, of the first of these scenes, ``scenes.png`` into an existing folder.

    Raises:
        NotWrittenError: a picture cannot be written.
    """
    # The figures are made without pyplot: no display is needed and no global state of matplotlib changes.
    from matplotlib.figure import Figure

    drawings: dict[str, tuple[tuple[float, float], Callable[[Any], None]]] = {
        "precision": ((9.0, 3.4), partial(precision, runs=runs)),
        "scenes": ((8.0, 3.3), partial(truth, scenes=scenes[:SHOWN])),
    }
    for name, (size, draw) in drawings.items():
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        write_png(folder / f"{name}.png", figure, dpi=70)


def precision(figure: Any, runs: Sequence[Run]) -> None:
    """Draw AP by epoch for every detector and what it finds: mean over seeds, one standard deviation to each side."""
    places = [(kind, compared) for kind in DETECTORS for compared in COMPARED[kind]]
    for axes, (kind, compared) in zip(figure.subplots(1, len(places)), places, strict=True):
        for trunk in trunks_of(runs):
            by_epoch: dict[int, list[float]] = {}
            for run in of_trunk(runs, trunk):
                for one in run.precisions:
                    if (one.detector, one.compared) == (kind, compared):
                        by_epoch.setdefault(one.epoch, []).append(one.AP)
            means = [fmean(values) for values in by_epoch.values()]
            deviations = [spread(values) if len(values) > 1 else 0.0 for values in by_epoch.values()]
            axes.plot(list(by_epoch), means, "o-", markersize=3, color=COLORS[trunk], label=LABELS[trunk])
            low, high = ([m + sign * s for m, s in zip(means, deviations, strict=True)] for sign in (-1, 1))
            axes.fill_between(list(by_epoch), low, high, alpha=0.2, color=COLORS[trunk], linewidth=0)
        axes.set(title=f"{DETECTORS[kind]}, {compared}", xlabel="epoch", ylabel="AP (%)")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(trunks_of(runs)))


def truth(figure: Any, scenes: Sequence[Scene]) -> None:
    """Draw scenes above their masks, whose boxes and labels are drawn too."""
    from matplotlib.patches import Rectangle

    above, below = figure.subplots(2, len(scenes), squeeze=False)
    for number, scene in enumerate(scenes):
        above[number].imshow(scene.image[0].numpy(), cmap="gray", vmin=0, vmax=1)
        whose = sum(place * mask.numpy() for place, mask in enumerate(scene.masks, start=1))
        below[number].imshow(whose, cmap="nipy_spectral", vmin=0, vmax=8, interpolation="nearest")
        for (left, top, right, bottom), label in zip(scene.boxes.tolist(), scene.labels.tolist(), strict=True):
            frame = (left - 0.5, top - 0.5)
            below[number].add_patch(
                Rectangle(frame, right - left, bottom - top, fill=False, edgecolor="white", linewidth=0.6)
            )
            below[number].text(left, top, str(label), color="white", fontsize=7, va="bottom")
        for axes in (above[number], below[number]):
            axes.set_axis_off()
