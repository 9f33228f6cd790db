"""The picture: every measure against the number of iterations, with the exact root as a line across."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..reproduction.claims import Figures, spread
from ..reproduction.pictures import write_png
from .roots import EXACT, NEWTON_SCHULZ, OPTIMAL, ROOTS

PANELS: Mapping[str, str] = {
    "accuracy": "test accuracy (%)",
    "loss_range": "range of the loss\nalong its gradient",
    "beta": "effective beta-smoothness",
    "root_error": "relative distance\nto the exact root",
    "hessian_eigenvalue": "largest Hessian eigenvalue",
    "surface_rise": "rise of the loss\naround the end",
}


def write_plot(path: Path, figures: Figures) -> None:
    """Draw what there are figures of; raises ``NotWrittenError`` where the file cannot be written."""
    write_png(path, drawn(figures), dpi=80)


def drawn(figures: Figures) -> Any:
    """Draw means over seeds, with one standard deviation to each side, in a panel for each measure."""
    # Without pyplot: no display is needed and no global state of matplotlib changes.
    from matplotlib.figure import Figure

    shown = {key: label for key, label in PANELS.items() if key in figures}
    columns = -(-len(shown) // 2)
    figure = Figure(figsize=(3.4 * columns, 6.0), layout="constrained")
    panels = figure.subplots(2, columns, squeeze=False).ravel()
    for axes, (key, label) in zip(panels, shown.items(), strict=False):
        _panel(axes, figures[key])
        axes.set(xlabel="iterations N", ylabel=label)
        if key == "root_error":
            axes.set_yscale("log")
            # The exact root's own distance is rounding, far below.
            inexact = [fmean(values) for root, values in figures[key].items() if ROOTS[root].family != EXACT]
            axes.set_ylim(bottom=min(inexact) / 3 if inexact else None)
        axes.grid(alpha=0.3)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    return figure


def _panel(axes: Any, of_roots: Mapping[str, Sequence[float]]) -> None:
    from matplotlib.ticker import MaxNLocator

    for family, color, marker in ((NEWTON_SCHULZ, "C0", "o"), (OPTIMAL, "C1", "D")):
        own = sorted(
            (ROOTS[root].steps or 0, fmean(values), spread(values) if len(values) > 1 else 0.0)
            for root, values in of_roots.items()
            if ROOTS[root].family == family
        )
        if own:
            steps, means, deviations = zip(*own, strict=True)
            axes.errorbar(
                steps, means, deviations, color=color, marker=marker, markersize=4, capsize=2, label=family
            )  # fmt: skip
    for root, values in of_roots.items():
        if ROOTS[root].family == EXACT:
            mean, deviation = fmean(values), spread(values) if len(values) > 1 else 0.0
            axes.axhline(mean, color="C2", linestyle="--", label=EXACT)
            axes.axhspan(mean - deviation, mean + deviation, color="C2", alpha=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
