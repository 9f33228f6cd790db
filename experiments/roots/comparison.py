"""The figures that roots are compared by, and the verdicts against the published five iterations."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from ..reproduction.claims import Figures, Measure, Verdict, verdict
from ..reproduction.figures import LANDSCAPE, flat, hessian_eigenvalue
from ..reproduction.runs import MEASURE, Run, of_kind
from .roots import PUBLISHED

# The claims of the reproduction to which the measures belong: 4 accuracy, 1 landscape, 6 flatness. None is claimed of
# roots; "better" is what those call better.
MEASURES = (
    Measure(4, "accuracy", "final test accuracy, %", higher_is_better=True),
    Measure(1, "loss_range", "range of the loss along its gradient, mean over training"),
    Measure(1, "beta", "effective beta-smoothness, mean over training"),
    Measure(6, "hessian_eigenvalue", "largest Hessian eigenvalue at the end, magnitude"),
    Measure(6, "surface_rise", "mean rise of the loss around the end, filter-normalised"),
)
ROOT_ERROR = Measure(0, "root_error", "relative distance to the exact root, on what the trained network pools")

_FIGURES: Mapping[str, Callable[[Run], float]] = {
    "accuracy": lambda run: run.accuracy,
    "loss_range": LANDSCAPE["loss_range"],
    "beta": LANDSCAPE["beta"],
    "hessian_eigenvalue": hessian_eigenvalue,
    "surface_rise": lambda run: flat(run).rise,
}


def figures_of(runs: Iterable[Run]) -> Figures:
    """Compute measure key -> root -> one figure per seed, in ascending order, of the runs that were measured.

    Those of the landscape are missing where no walk was recorded. Beside ``MEASURES`` there is what
    :func:`experiments.roots.experiment.root_figures` returns.
    """
    measured = sorted(of_kind(MEASURE, runs), key=lambda run: run.seed)
    functions = {key: function for key, function in _FIGURES.items() if key not in LANDSCAPE or measured[0].walks}
    functions |= {key: partial(_other, key=key) for key in measured[0].others}
    roots = list(dict.fromkeys(run.pool for run in measured))
    return {
        key: {root: [figure(run) for run in measured if run.pool == root] for root in roots}
        for key, figure in functions.items()
    }


def _other(run: Run, key: str) -> float:
    return run.others[key]


def verdicts(figures: Figures) -> list[Verdict]:
    """Return a verdict for every measure that there are figures of, and every root but the published one."""
    return [
        verdict(measure, root, figures[measure.key][PUBLISHED], figures[measure.key][root])
        for measure in (*MEASURES, ROOT_ERROR)
        if measure.key in figures
        for root in figures[measure.key]
        if root != PUBLISHED
    ]


def beyond_margin(every: Sequence[Verdict], key: str, sign: int) -> list[str]:
    """List the roots whose mean gain in a measure exceeds its margin, to the better (1) or the worse (-1)."""
    return [v.pool for v in every if v.measure.key == key and sign * v.gain > v.margin]
