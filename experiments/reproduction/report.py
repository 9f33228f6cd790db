"""The report in Markdown: what each claim of the papers comes to in this run. Every sentence follows from the data."""

from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import fmean

from ..datasets import ImageData
from ..training import BACKBONES
from . import longer, outliers
from .choice import validation_accuracy
from .claims import (
    BASELINE,
    CLAIMS,
    NOT_MEASURED,
    NOT_SUPPORTED,
    SEEDS_TO_SUPPORT,
    SUPPORTED,
    UNDECIDED,
    Figures,
    Verdict,
    of_claim,
)
from .notes import BY_THE_RATE, DEAD_CHANNELS, NOTES, differences, on_flatness, on_robustness
from .plots import LABELS
from .runs import CHOOSE, MEASURE, Run, of_kind
from .settings import Settings, others
from .words import capital, listed_and, over_seeds, paragraph, plural, table

# By network.
Verdicts = Mapping[str, Sequence[Verdict]]
CHOSEN_BY_VALIDATION = (
    "The learning rate of each pooling of each network was chosen by validation images, from other seeds than those "
    "that are measured; no rate was by test images."
)


def report(
    settings: Settings,
    data: ImageData,
    runs: Sequence[Run],
    figures: Mapping[str, Figures],
    every: Verdicts,
    circumstances: Sequence[str],
    residual: float,
) -> str:
    """Write the whole report.

    Args:
        settings: what was run.
        data: on what.
        runs: all of them.
        figures: of every measure, by network.
        every: the verdicts on them, by network.
        circumstances: lines on command, machine and time, which head the report.
        residual: the largest relative residual of a Hessian eigenvalue.
    """
    networks = listed_and([BACKBONES[network].title for network in settings.networks])
    images = f"{data.size}x{data.size}"
    sections = [
        f"# What covariance pooling does to optimisation: {data.name}",
        f"A small experiment, written by `python -m experiments reproduce`: {networks}, on images of {images}. It can "
        "support or contradict what the papers found on ImageNet, and settles nothing about it.",
        "\n".join(f"- {line}" for line in circumstances),
        "## Verdicts",
        summary(settings, every),
        CHOSEN_BY_VALIDATION,
        _rule(settings.seeds),
        "## Learning rates",
        *_rates(settings, len(data.validation), runs),
        *(section for claim in CLAIMS for section in _claim(claim, settings, data, figures, every, residual)),
        *longer.sections(settings, len(data.classes), runs),
        "## What differs from the papers",
        differences(settings, data),
    ]
    return "\n\n".join(sections) + "\n"


def summary(settings: Settings, every: Verdicts) -> str:
    """Write the tables of claims, one for each pooling against average pooling: a row each, a column a network."""
    titles = [BACKBONES[network].title for network in settings.networks]
    tables = [
        table(
            [f"{LABELS[pool]} against average pooling", *titles],
            (
                [
                    f"{claim}. {CLAIMS[claim]}",
                    *(_bold(of_claim(claim, pool, every[network])) for network in settings.networks),
                ]
                for claim in CLAIMS
            ),
        )
        for pool in others(settings)
    ]
    return "\n\n".join(tables)


def detail(network: str, verdicts: Sequence[Verdict]) -> list[list[str]]:
    """Return rows for some verdicts: means and standard deviations over seeds, gain with its margin, outcome."""
    return [
        [
            f"{v.measure.text}{' (relative)' if v.measure.relative else ''}",
            BACKBONES[network].title,
            LABELS[v.pool],
            over_seeds(v.baseline_figures, v.baseline_mean, v.baseline_spread, v.measure.infinite),
            over_seeds(v.figures, v.mean, v.spread, v.measure.infinite),
            over_seeds(v.gains, v.gain, v.margin, "none"),
            v.outcome,
        ]
        for v in verdicts
    ]


DETAIL = ["measure", "network", "pooling", "average pooling", "this pooling", "gain", "verdict"]


def _rule(seeds: int) -> str:
    subject = "the one seed" if seeds == 1 else f"each of the {seeds} seeds"
    return paragraph(f"""
        The rule: {subject} gives one paired difference to average pooling, the gain, positive in the claimed direction.
        **Supported**: the mean gain exceeds its margin, Student's t (97.5 %) times its standard error, over
        {SEEDS_TO_SUPPORT} seeds at least. **Not supported**: the mean gain is zero or negative, which is no proof of
        the opposite: that is said where it is found beyond the margin. **Undecided**: positive but within the margin or
        from fewer than {SEEDS_TO_SUPPORT} seeds, no number, or a single seed. A claim with several measures is
        supported if all are, and not supported if one is not; measures marked relative, with the scale divided out,
        which the papers do not have, are shown with it and do not count. Tables give mean ± standard deviation over
        seeds, and for gains ± the margin. Nothing is corrected for the number of measures: of twenty that make no
        difference, about one lies beyond its margin, to either side, by chance. Nor are they independent: what ends
        more accurate also comes sooner to the other's accuracy, and the corruption error is made of the accuracies
        beside it.
    """)


def _rates(settings: Settings, images_to_choose_by: int, runs: Sequence[Run]) -> list[str]:
    """Write what every rate gave on validation images; the chosen one is bold."""
    accuracies = validation_accuracy(runs)
    chosen = {(run.network, run.pool): run.job.rate for run in of_kind(MEASURE, runs)}
    tried = {(run.network, run.pool, run.job.rate) for run in runs if run.job.kind == CHOOSE}
    rates = sorted({rate for _, _, rate in tried})
    rows = []
    for network in settings.networks:
        for pool in settings.pools:
            cells = []
            for rate in rates:
                key = (network, pool, rate)
                cell = f"{accuracies[key][0]:.2f}" if key in accuracies else "diverged" if key in tried else ""
                cells.append(f"**{cell}**" if rate == chosen[network, pool] else cell)
            rows.append([BACKBONES[network].title, LABELS[pool], *cells])
    head = table(["network", "pooling", *(f"{rate:g}" for rate in rates)], rows)
    if len(settings.rates) == 1:
        return [head, "One rate for all: nothing was chosen. Accuracy on validation images at the end, in per cent."]
    at_the_end = sorted(
        f"{LABELS[pool]} of {BACKBONES[network].title}"
        for (network, pool), rate in chosen.items()
        if rate in (min(own := [r for n, p, r in tried if (n, p) == (network, pool)]), max(own))
    )
    sentence = (
        f"Accuracy on validation images at the end, in per cent, mean over {plural(settings.choosing_seeds, 'seed')} "
        "that nothing else uses; of equal ones the rate with the lower loss is taken. Where the best was at an end of "
        "the grid, that went on from there. One of the validation images is "
        f"{100 / images_to_choose_by:.2g} points."
    )
    if at_the_end:
        sentence += f" Still at an end, so that a rate beyond it may be better: {'; '.join(at_the_end)}."
    if diverged := [run for run in runs if run.diverged]:
        sentence += f" A rate with which a training diverged is not chosen; trainings that did: {len(diverged)}."
    return [head, sentence]


def _claim(
    claim: int,
    settings: Settings,
    data: ImageData,
    figures: Mapping[str, Figures],
    every: Verdicts,
    residual: float,
) -> list[str]:
    of_it = {network: [v for v in every[network] if v.measure.claim == claim] for network in settings.networks}
    heading = f"## {claim}. {capital(CLAIMS[claim])}"
    if not any(of_it.values()):
        return [heading, f"{capital(NOT_MEASURED)}."]
    rows = [row for network in settings.networks for row in detail(network, of_it[network])]
    sections = [heading, _sentences(claim, settings, of_it), table(DETAIL, rows)]
    if claim == 3:
        sections.append(_in_share_of_epochs(settings, figures))
    else:  # Of whole epochs one more or less is not far.
        sections += _outliers(of_it)
    pictures = {
        2: [(f"landscape-{name}", f"landscape, {BACKBONES[name].title}, by training step") for name in of_it],
        4: [("convergence", "test accuracy and training loss by epoch, mean and standard deviation over seeds")],
        5: [("robustness", "accuracy under corruption, mean and standard deviation over seeds")],
    }
    sections += [f"![{text}]({name}.png)" for name, text in pictures.get(claim, [])]
    if claim in NOTES:
        sections.append(paragraph(NOTES[claim]))
    if claim in (1, 2) and "mobilenetv2" in of_it:
        sections.append(paragraph(DEAD_CHANNELS))
    if claim == 5:
        sections.append(on_robustness(settings, data))
    if claim == 6:
        sections.append(on_flatness(settings, data, residual))
    if claim in (1, 2, 6) and len(settings.rates) > 1:
        sections.append(paragraph(BY_THE_RATE))
    return sections


def _sentences(claim: int, settings: Settings, of_it: Verdicts) -> str:
    """Write one sentence for each network and pool: the verdict, and what speaks against it."""
    lines = []
    for network, verdicts in of_it.items():
        for pool in others(settings):
            own = [verdict for verdict in verdicts if verdict.pool == pool]
            counted = [verdict for verdict in own if not verdict.measure.relative]
            tally = ", ".join(
                f"{sum(verdict.outcome == kind for verdict in counted)} {kind}"
                for kind in (SUPPORTED, UNDECIDED, NOT_SUPPORTED)
                if any(verdict.outcome == kind for verdict in counted)
            )
            against = [
                f"{v.measure.text}{' (relative)' if v.measure.relative else ''}"
                for v in own
                if v.seeds >= SEEDS_TO_SUPPORT and isfinite(v.margin) and -v.gain > v.margin
            ]
            opposed = f" Opposed beyond the margin: {'; '.join(against)}." if against else ""
            name = f"{BACKBONES[network].title}, {LABELS[pool]}"
            lines.append(f"- {name}: **{of_claim(claim, pool, own)}** ({tally} of {len(counted)}).{opposed}")
    return "\n".join(lines)


def _outliers(of_it: Verdicts) -> list[str]:
    named: dict[str, Sequence[float]] = {}
    for network, verdicts in of_it.items():
        for v in verdicts:
            for pool, figures in ((BASELINE, v.baseline_figures), (v.pool, v.figures)):
                if not v.measure.relative:
                    named[f"{v.measure.text}, {BACKBONES[network].title}, {LABELS[pool]}"] = figures
    return [said] if (said := outliers.sentence(named.items())) else []


def _in_share_of_epochs(settings: Settings, figures: Mapping[str, Figures]) -> str:
    """Write claim 3 as the papers put it: the share of all epochs after which the accuracy was reached."""
    of_networks = []
    for network in settings.networks:
        sentences = []
        for pool, reached in figures[network]["epochs_to_target"].items():
            finite = [value for value in reached if isfinite(value)]
            only = "" if len(finite) == len(reached) else f"in {len(finite)} of {len(reached)} seeds only, "
            share = f"after {100 * fmean(finite) / settings.epochs:.0f} % of the epochs" if finite else "in none"
            sentences.append(f"by {LABELS[pool]} {only if finite else ''}{share}")
        of_networks.append(f"{BACKBONES[network].title}: {'; '.join(sentences)}.")
    return paragraph(f"""
        Average pooling's final accuracy of the same seed was first reached as follows. {" ".join(of_networks)} The
        papers compare with all epochs of average pooling (GCP needs 32 to 40 % of them on ResNets, 17 % on
        MobileNetV2); the verdict compares with the epoch in which average pooling itself first came there, which is
        harder. A network that never comes there has no gain, and its claim is not supported.
    """)


def _bold(outcome: str) -> str:
    return f"**{outcome}**" if outcome == SUPPORTED else outcome
