"""The figures that roots are compared by, and the verdicts against the published five iterations."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import isnan

from ..reproduction.claims import SEEDS_TO_SUPPORT, Figures, Measure, Verdict, student, verdict
from ..reproduction.figures import LANDSCAPE, flat, hessian_eigenvalue, quotient
from ..reproduction.runs import MEASURE, Run, of_kind
from .roots import PUBLISHED

# The claims of the reproduction to which the measures belong: 4 accuracy, 1 landscape, 6 flatness. None is claimed of
# roots; "better" is what those call better.
MEASURES = (
    Measure(4, "accuracy", "final test accuracy, %", higher_is_better=True),
    Measure(1, "loss_range", "range of the loss along its gradient, mean over training"),
    Measure(1, "loss_range_relative", "that range / loss", relative=True),
    Measure(1, "beta", "effective beta-smoothness, mean over training"),
    Measure(6, "hessian_eigenvalue", "largest Hessian eigenvalue at the end, magnitude"),
    Measure(6, "surface_rise", "mean rise of the loss around the end, filter-normalised"),
    Measure(6, "surface_rise_relative", "that rise / loss", relative=True),
)
ROOT_ERROR = Measure(0, "root_error", "relative distance to the exact root, on what the trained network pools")

_FIGURES: Mapping[str, Callable[[Run], float]] = {
    "accuracy": lambda run: run.accuracy,
    **{key: LANDSCAPE[key] for key in ("loss_range", "loss_range_relative", "beta")},
    "hessian_eigenvalue": hessian_eigenvalue,
    "surface_rise": lambda run: flat(run).rise,
    "surface_rise_relative": lambda run: quotient(flat(run).rise, flat(run).loss),
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


def outcome(v: Verdict) -> str:
    """Say in words what a comparison came to; nothing is claimed of roots, so that nothing is supported."""
    if isnan(v.gain):
        return "no number"
    if v.seeds < SEEDS_TO_SUPPORT or abs(v.gain) <= v.margin:
        return "within the margin"
    return "better" if v.gain > 0 else "worse"


def margins_together(every: Sequence[Verdict], key: str) -> dict[str, float]:
    """Return the margin of each root in a measure that holds for all of its comparisons together (Bonferroni)."""
    own = [v for v in every if v.measure.key == key]
    return {
        v.pool: v.margin * student(v.seeds - 1, 1 - 0.025 / len(own)) / student(v.seeds - 1) for v in own
    }  # fmt: skip


def nearer_roots(figures: Figures) -> list[str]:
    """List the roots that are nearer to the exact one than the published root, with every seed.

    All of them are taken of the same features, those of the networks that were trained with the published one.
    """
    errors = same_features(figures, "error")
    return [
        root
        for root, own in errors.items()
        if all(ours < theirs for ours, theirs in zip(own, errors[PUBLISHED], strict=True))
    ]


def same_features(figures: Figures, distance: str) -> dict[str, Sequence[float]]:
    """Return a distance of :data:`experiments.roots.experiment.DISTANCES` of every root, by seed.

    Of the features of the networks that were trained with the published root.
    """
    roots = figures[ROOT_ERROR.key]
    return {root: figures[f"{distance}_{root}"][PUBLISHED] for root in roots}
