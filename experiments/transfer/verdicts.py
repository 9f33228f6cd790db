"""What the runs say: figures of average precision at the end, and verdicts by the rule of the reproduction."""

from collections.abc import Sequence

from ..reproduction.claims import NOT_SUPPORTED, SUPPORTED, UNDECIDED, Measure, Verdict, verdict
from .detectors import DETECTORS
from .experiment import COMPARED, Precision, Run
from .settings import RANDOM

# The claims of the reproduction end with 6.
CLAIM = 7
# The mean over overlaps decides, as in the papers' tables; the other two are shown with it.
DECIDES, SHOWN = "AP", ("AP50", "AP75")

MEASURES = {
    (kind, compared, figure): Measure(
        CLAIM, f"{kind}_{compared}_{figure}", f"{DETECTORS[kind]}, {figure} of {compared}", higher_is_better=True
    )
    for kind in DETECTORS
    for compared in COMPARED[kind]
    for figure in (DECIDES, *SHOWN)
}
DECIDING = tuple(measure.key for (_, _, figure), measure in MEASURES.items() if figure == DECIDES)


def of_trunk(runs: Sequence[Run], trunk: str) -> list[Run]:
    """Return the runs of a trunk by seed."""
    return sorted((run for run in runs if run.trunk == trunk), key=lambda run: run.seed)


def trunks_of(runs: Sequence[Run]) -> list[str]:
    """Return the trunks in the order of the runs."""
    return list(dict.fromkeys(run.trunk for run in runs))


def at_the_end(run: Run, kind: str, compared: str) -> Precision:
    """Return the last of a detector's figures."""
    own = [one for one in run.precisions if (one.detector, one.compared) == (kind, compared)]
    return max(own, key=lambda one: one.epoch)


def verdicts(runs: Sequence[Run], baseline: str) -> list[Verdict]:
    """Return a verdict for every measure and every trunk but ``baseline``, against which each is held.

    A random trunk is held against none.
    """
    return [
        verdict(measure, trunk, *(_figures(runs, one, *place) for one in (baseline, trunk)))
        for place, measure in MEASURES.items()
        for trunk in trunks_of(runs)
        if trunk not in (baseline, RANDOM)
    ]


def of_claim(trunk: str, every: Sequence[Verdict]) -> str:
    """Return the verdict on a trunk: supported if every measure that decides is, not supported if one is not."""
    outcomes = {one.outcome for one in every if one.pool == trunk and one.measure.key in DECIDING}
    if outcomes == {SUPPORTED}:
        return SUPPORTED
    return NOT_SUPPORTED if NOT_SUPPORTED in outcomes else UNDECIDED


def _figures(runs: Sequence[Run], trunk: str, kind: str, compared: str, figure: str) -> list[float]:
    return [float(getattr(at_the_end(run, kind, compared), figure)) for run in of_trunk(runs, trunk)]
