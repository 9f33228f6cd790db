"""Was average pooling stopped early, and had all learnt what they could? What more epochs and training losses say."""

from collections.abc import Sequence
from math import log
from statistics import fmean

from ..training import BACKBONES
from .claims import ACCURACY, BASELINE, SUPPORTED, Verdict, spread, verdict
from .plots import LABELS
from .runs import LONGER, MEASURE, Run, of_kind
from .settings import Settings, ends_at_rate_zero, others
from .words import listed_and, paragraph, plural, plus_minus, table


def sections(settings: Settings, classes: int, runs: Sequence[Run]) -> list[str]:
    """Write the sections of the report on both questions."""
    return [
        "## Average pooling for longer",
        _stopped_early(settings),
        longer_table(settings, runs),
        "## How far training came",
        _how_far(settings, classes),
        training_loss_table(settings, runs),
        less_accurate_with_lower_loss(settings, runs),
    ]


def _stopped_early(settings: Settings) -> str:
    epochs, more = plural(settings.epochs, "epoch"), _more(settings)
    return paragraph(f"""
        Was average pooling stopped early? Here it has {more}, with the same schedule stretched over them and the
        rate chosen for {epochs}, and the other poolings have {epochs}. Final test accuracy in per cent; the
        verdict, by the same rule, is on the accuracy being higher than average pooling's after {more}.
    """)


def longer_table(settings: Settings, runs: Sequence[Run]) -> str:
    """Write the table that compares final accuracies with average pooling's after more epochs."""
    rows = []
    for network in settings.networks:
        for pool in others(settings):
            v, short = (_accuracy_against(kind, network, pool, runs) for kind in (LONGER, MEASURE))
            rows.append(
                [
                    BACKBONES[network].title,
                    LABELS[pool],
                    plus_minus(short.baseline_mean, short.baseline_spread),
                    plus_minus(v.baseline_mean, v.baseline_spread),
                    plus_minus(v.mean, v.spread),
                    plus_minus(v.gain, v.margin),
                    v.outcome,
                ]
            )
    epochs = plural(settings.epochs, "epoch")
    head = ["network", "pooling", f"average pooling, {epochs}", f"average pooling, {_more(settings)}"]
    return table([*head, f"this pooling, {epochs}", "gain", "verdict"], rows)


def _accuracy_against(kind: str, network: str, pool: str, runs: Sequence[Run]) -> Verdict:
    """Hold the final accuracy of a pooling against that of average pooling in runs of a kind."""
    baseline, own = (_of(kind, network, BASELINE, runs), _of(MEASURE, network, pool, runs))
    return verdict(ACCURACY, pool, [run.accuracy for run in baseline], [run.accuracy for run in own])


def _of(kind: str, network: str, pool: str, runs: Sequence[Run]) -> list[Run]:
    return [run for run in of_kind(kind, runs) if (run.network, run.pool) == (network, pool)]


def _more(settings: Settings) -> str:
    return plural(settings.epochs * settings.longer, "epoch")


def _how_far(settings: Settings, classes: int) -> str:
    still = ""
    if ends_at_rate_zero(settings):
        still = "The rate is zero in that epoch, so that a loss which no longer falls is no sign of an end."
    return paragraph(f"""
        Had the networks learnt what they could? The training loss, cross-entropy in the last epoch, in training mode:
        with the statistics of a batch, and DropCov's with channels dropped. Guessing has {log(classes):.2f}. {still}
        How far average pooling was from its end, {_more(settings)} show.
    """)


def training_loss_table(settings: Settings, runs: Sequence[Run]) -> str:
    """Write the table of the training loss at the end: a row a network, a column a pooling, and one for longer."""
    columns = {
        LABELS[BASELINE]: (MEASURE, BASELINE),
        f"{LABELS[BASELINE]}, {_more(settings)}": (LONGER, BASELINE),
        **{LABELS[pool]: (MEASURE, pool) for pool in others(settings)},
    }
    rows = []
    for network in settings.networks:
        losses = (_last_losses(kind, network, pool, runs) for kind, pool in columns.values())
        rows.append([BACKBONES[network].title, *(plus_minus(fmean(own), spread(own)) for own in losses)])
    return table(["network", *columns], rows)


def _last_losses(kind: str, network: str, pool: str, runs: Sequence[Run]) -> list[float]:
    return [run.epochs[-1].loss for run in _of(kind, network, pool, runs)]


def less_accurate_with_lower_loss(settings: Settings, runs: Sequence[Run]) -> str:
    """Say where average pooling, with more epochs, has a lower training loss and is yet less accurate."""
    sentences = []
    for pool in others(settings):
        titles = [
            BACKBONES[network].title
            for network in settings.networks
            if fmean(_last_losses(LONGER, network, BASELINE, runs)) < fmean(_last_losses(MEASURE, network, pool, runs))
            and _accuracy_against(LONGER, network, pool, runs).outcome == SUPPORTED
        ]
        where = f"in {listed_and(titles)}" if titles else "in no network"
        sentences.append(
            f"After {_more(settings)} average pooling has a lower training loss than {LABELS[pool]}, and is yet less "
            f"accurate beyond the margin, {where}."
        )
    return " ".join(sentences)
