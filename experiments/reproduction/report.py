"""The report in Markdown: what each claim of the papers comes to in this run. Every sentence follows from the data."""

from collections.abc import Sequence
from math import floor, isfinite, isinf, isnan, log10, nan
from statistics import fmean

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
from .corruptions import AMOUNTS
from .experiment import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Settings
from .flatness import RESIDUAL_ALLOWED
from .plots import LABELS


def report(
    settings: Settings, figures: Figures, every: Sequence[Verdict], circumstances: Sequence[str], residual: float
) -> str:
    """Write the whole report.

    Args:
        settings: what was run.
        figures: of every measure.
        every: the verdicts on them.
        circumstances: lines on command, machine and time, which head the report.
        residual: the largest relative residual of a Hessian eigenvalue.
    """
    pools = [pool for pool in settings.pools if pool != BASELINE]
    sections = [
        "# What covariance pooling does to optimisation, in small",
        "A small experiment, written by `python -m experiments reproduce`: a CNN of three convolutions on 8x8 digits, "
        "which can support or contradict what the papers found on ImageNet, and settle nothing about it.",
        "\n".join(f"- {line}" for line in circumstances),
        "## Verdicts",
        summary(list(CLAIMS), pools, every),
        CHOSEN_ON_TEST_IMAGES,
        _rule(settings.seeds),
        *(section for claim in CLAIMS for section in _claim(claim, settings, figures, every, residual)),
        "## What differs from the papers",
        _differences(settings),
    ]
    return "\n\n".join(sections) + "\n"


def summary(claims: Sequence[int], pools: Sequence[str], every: Sequence[Verdict]) -> str:
    """Write the table of claims: one row each, one column for each pool against average pooling."""
    rows = [
        f"| claim, against average pooling | {' | '.join(LABELS[pool] for pool in pools)} |",
        _rule_line(1 + len(pools)),
    ]
    for claim in claims:
        outcomes = " | ".join(_bold(of_claim(claim, pool, every)) for pool in pools)
        rows.append(f"| {claim}. {CLAIMS[claim]} | {outcomes} |")
    return "\n".join(rows)


def detail(verdicts: Sequence[Verdict]) -> str:
    """Write the table of some verdicts: means and standard deviations over seeds, gain with its margin, outcome."""
    rows = ["| measure | pooling | average pooling | this pooling | gain | verdict |", _rule_line(6)]
    for v in verdicts:
        relative = " (relative)" if v.measure.relative else ""
        cells = (
            f"{v.measure.text}{relative}",
            LABELS[v.pool],
            over_seeds(v.baseline_figures, v.baseline_mean, v.baseline_spread, v.measure.infinite),
            over_seeds(v.figures, v.mean, v.spread, v.measure.infinite),
            over_seeds(v.gains, v.gain, v.margin, "none"),
            v.outcome,
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def over_seeds(figures: Sequence[float], mean: float, deviation: float, infinite: str) -> str:
    """Write :func:`plus_minus`; or, where figures are infinite or no number, in how many seeds they are."""
    parts = [
        f"{word} in {count} of {plural(len(figures), 'seed')}"
        for word, count in ((infinite, sum(map(isinf, figures))), ("no number", sum(map(isnan, figures))))
        if count
    ]
    return ", ".join(parts) or plus_minus(mean, deviation)


def plus_minus(mean: float, deviation: float) -> str:
    """Write mean and deviation to two digits of the deviation; without a deviation the mean to three digits.

    One digit more where the mean would be a zero that it is not.
    """
    if not isfinite(mean):
        return "no number" if isnan(mean) else "infinite"
    scale = deviation if isfinite(deviation) and deviation > 0 else abs(mean) / 10
    decimals = min(6, max(0, 1 - floor(log10(scale)))) if scale else 0
    if mean and not float(f"{mean:.{decimals}f}"):
        decimals += 1
    text = f"{mean:.{decimals}f}"
    if not float(text):
        text = text.removeprefix("-")
    return text + (f" ± {deviation:.{decimals}f}" if isfinite(deviation) else "")


def plural(number: int, noun: str) -> str:
    """Write the number and its noun, in the plural unless the number is one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _rule(seeds: int) -> str:
    subject = "the one seed" if seeds == 1 else f"each of the {seeds} seeds"
    return _paragraph(f"""
        The rule: {subject} gives one paired difference to average pooling, the gain, positive in the claimed direction.
        **Supported**: the mean gain exceeds its margin, Student's t (97.5 %) times its standard error, over
        {SEEDS_TO_SUPPORT} seeds at least. **Not supported**: the mean gain is zero or negative. **Undecided**: positive
        but within the margin or from fewer than {SEEDS_TO_SUPPORT} seeds, no number, or a single seed. A claim with
        several measures is supported if all are, and not supported if one is not; measures marked relative, which are
        ours and not the papers', are shown with it and do not count. Tables give mean ± standard deviation over seeds,
        and for gains ± the margin. Nothing is corrected for the number of measures: of twenty that make no difference,
        about one lies beyond its margin, to either side, by chance.
    """)


def _claim(claim: int, settings: Settings, figures: Figures, every: Sequence[Verdict], residual: float) -> list[str]:
    of_it = [verdict for verdict in every if verdict.measure.claim == claim]
    heading = f"## {claim}. {CLAIMS[claim][0].upper()}{CLAIMS[claim][1:]}"
    if not of_it:
        return [heading, f"{NOT_MEASURED[0].upper()}{NOT_MEASURED[1:]}."]
    sections = [heading, _sentences(claim, settings, of_it), detail(of_it)]
    if claim == 3:
        sections.append(_in_share_of_epochs(settings.epochs, figures))
    if claim in PICTURES:
        sections.append(f"![{PICTURES[claim][1]}]({PICTURES[claim][0]})")
    if claim in NOTES:
        sections.append(_paragraph(NOTES[claim]))
    if claim == 6:
        sections.append(_on_flatness(settings, residual))
    return sections


def _sentences(claim: int, settings: Settings, of_it: Sequence[Verdict]) -> str:
    """Write one sentence for each pool: the verdict, and what speaks against it."""
    lines = []
    for pool in settings.pools:
        own = [verdict for verdict in of_it if verdict.pool == pool]
        if not own:
            continue
        outcome = of_claim(claim, pool, own)
        counted = [verdict for verdict in own if not verdict.measure.relative]
        tally = ", ".join(
            f"{sum(verdict.outcome == kind for verdict in counted)} {kind}"
            for kind in (SUPPORTED, UNDECIDED, NOT_SUPPORTED)
            if any(verdict.outcome == kind for verdict in counted)
        )
        against = [v.measure.text for v in own if isfinite(v.margin) and -v.gain > v.margin]
        opposed = f" Opposed beyond the margin: {'; '.join(against)}." if against else ""
        lines.append(f"- {LABELS[pool]}: **{outcome}** ({tally} of {len(counted)}).{opposed}")
    return "\n".join(lines)


def _on_flatness(settings: Settings, residual: float) -> str:
    return _paragraph(f"""
        On a fixed part of the training images ({settings.flatness_images} of them), in evaluation mode. The curvature
        of cross-entropy shrinks with the loss itself, so that a network which fits better is flatter by that alone; the
        relative measure divides by the loss. The eigenvalue is the largest in magnitude, and depends on how the
        classifier is parametrised (2080 inputs for covariances, 64 for average pooling), the filter-normalised rise
        less so. It comes from at most {plural(settings.hessian_iterations, "step")} of power iteration; the residual
        ‖Hv - λv‖ is at most {plus_minus(100 * residual, nan)} % of the eigenvalue in these runs. An eigenvalue
        with more than {100 * RESIDUAL_ALLOWED:g} % is taken for no number, and leaves its measure undecided.
    """)


def _in_share_of_epochs(epochs: int, figures: Figures) -> str:
    """Write claim 3 as the papers put it: the share of all epochs after which the accuracy was reached."""
    sentences = []
    for pool, reached in figures["epochs_to_target"].items():
        finite = [value for value in reached if isfinite(value)]
        only = "" if len(finite) == len(reached) else f"in {len(finite)} of {len(reached)} seeds only, "
        share = f"after {100 * fmean(finite) / epochs:.0f} % of the epochs" if finite else "in none"
        sentences.append(f"by {LABELS[pool]} {only if finite else ''}{share}")
    return _paragraph(f"""
        Average pooling's final accuracy of the same seed was first reached {"; ".join(sentences)}. The papers compare
        with all epochs of average pooling (GCP needs 32 to 40 % of them on ResNets, 17 % on MobileNetV2); the verdict
        compares with the epoch in which average pooling itself first came there, which is harder. A network that never
        comes there has no gain, and its claim is not supported.
    """)


# Beside every table of verdicts.
CHOSEN_ON_TEST_IMAGES = (
    "The learning rate, one for all poolings, was chosen for average pooling and GCP on these same test images: final "
    "accuracies compare, and are not those on unseen images."
)

PICTURES = {
    2: ("landscape.png", "loss and distance between gradients along the gradient, by training step"),
    4: ("convergence.png", "test accuracy and training loss by epoch, mean and standard deviation over seeds"),
    5: ("robustness.png", "accuracy under corruption, mean and standard deviation over seeds"),
}

NOTES = {
    1: """
        As in the papers the walk is y + d g from the stem's output y along the gradient g, the same d for all networks.
        A network with smaller gradients therefore walks less far, and part of a narrower band is that; the relative
        measure divides by the loss, and beta by the length walked. y leaves a BatchNorm and has about the same size in
        all. Along one walk DropCov keeps one mask.
    """,
    2: "Distances are absolute, as in the papers; the relative measure divides by the norm of the gradient itself.",
    5: f"""
        Mean corruption error: for every corruption the error summed over strengths, in per cent of average pooling's,
        then the mean over corruptions, as Hendrycks & Dietterich (2019) define it with AlexNet. Accuracy lost is the
        accuracy on clean images less the mean under corruption: what is left when a better start is taken out.
        Strengths 1 to 5 are: {"; ".join(f"{name} {', '.join(map(str, AMOUNTS[name]))}" for name in AMOUNTS)} (deviation
        of the noise; deviation of the blur in pixels; share of the contrast taken away; pixels in one of four
        directions).
    """,
}


def _differences(settings: Settings) -> str:
    low, high = settings.landscape_range
    paragraphs = (
        """
        Data and network: a few hundred training images of 8x8, three convolutions, 64 channels to pool; the papers have
        ImageNet, ResNets and MobileNetV2, and 256 channels. Few images favour what fits fast.
        """,
        f"""
        Training: the papers' schedule "{settings.schedule}", stretched over {plural(settings.epochs, "epoch")}, with
        SGD (momentum {MOMENTUM}, weight decay {WEIGHT_DECAY}), batches of {settings.batch_size} and learning rate
        {LEARNING_RATE} for every pooling; theirs run 30 to 100 epochs with batches of 256. That rate was chosen among
        0.05, 0.1, 0.2 and 0.4 with the default settings, by the accuracy of seeds 0 to 2 on the test images: it is the
        best for average pooling, and for GCP, where 0.4 ties with it. The test images here are the same, and so are
        {min(settings.seeds, 3)} of the {plural(settings.seeds, "seed")}: the final accuracies are no accuracies on
        unseen images.
        """,
        f"""
        Landscape: {settings.landscape_steps} evenly spaced d from {low:g} to {high:g}, every {settings.landscape_every}
        training steps, on the training batch and in training mode; the papers have 50, from 0.1 to 75 on ResNets and
        0.045 to 1.5 on MobileNetV2. They show bands; their mean over training as one number, and beta (Santurkar et
        al., 2018), are ours.
        """,
        """
        Robustness: four corruptions made for eight pixels instead of the fifteen of ImageNet-C, and no sequences of
        perturbations.
        """,
        f"""
        Seeds: {settings.seeds}, which vary weights, order and masks; the split of the images is the same in all, so
        that the spread does not include that of other data.
        """,
    )
    return "\n".join(f"- {_paragraph(text)}" for text in paragraphs)


def _paragraph(text: str) -> str:
    """Put text on one line, however it was broken in the source."""
    return " ".join(text.split())


def _rule_line(columns: int) -> str:
    return "|" + "---|" * columns


def _bold(outcome: str) -> str:
    return f"**{outcome}**" if outcome == SUPPORTED else outcome
