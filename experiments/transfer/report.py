"""The report in Markdown: whether trunks transfer better. Every sentence follows from the runs."""

from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import fmean

from gcp_kernels.nn.poolings import BASELINE

from ..datasets import ImageData
from ..reproduction.claims import SEEDS_TO_SUPPORT, SUPPORTED, Verdict, spread
from ..reproduction.words import listed_and, over_seeds, paragraph, plural, plus_minus, table
from .choice import classifier_rates, detector_rates, of_classifiers, of_detectors
from .detectors import ANCHORS, CHANNELS, COARSEST_FROM, DETECTORS, PYRAMID
from .experiment import MEASURED, Choice, Run
from .plots import LABELS
from .scenes import BACKGROUND, BRIGHTNESS, NOISE, STROKE, VISIBLE
from .settings import RANDOM, Settings
from .training import MOMENTUM, WEIGHT_DECAY
from .verdicts import DECIDES, DECIDING, SHOWN, of_claim, of_trunk, trunks_of


def report(
    settings: Settings,
    data: ImageData,
    choices: Sequence[Choice],
    runs: Sequence[Run],
    average: Sequence[Verdict],
    random: Sequence[Verdict],
    circumstances: Sequence[str],
) -> str:
    """Write the whole report.

    Args:
        settings: what was run.
        data: where the digits are from.
        choices: of the classifiers' and the detectors' rates.
        runs: what was measured, and did not diverge.
        average: verdicts against average pooling.
        random: verdicts against a trunk of random weights.
        circumstances: lines on machine and versions, which head the report.
    """
    others = [pool for pool in trunks_of(runs) if pool not in (BASELINE, RANDOM)]
    sections = [
        "# Transfer to detection and instance segmentation, in small",
        paragraph(f"""
            A ResNet-18 learns to classify digits with each pooling. Its trunk, without pool, reduction and classifier,
            then goes into torchvision's {" and ".join(DETECTORS.values())} with a feature pyramid, which learn to find
            digits in scenes. Judged is COCO's average precision on scenes with digits that nothing has seen, against
            the trunk of average pooling and against one of random weights.
        """),
        "\n".join(f"- {line}" for line in circumstances),
        "## Verdicts",
        table(
            ["claim", *(LABELS[pool] for pool in others)],
            [
                [
                    "7. the trunk transfers better than that of average pooling",
                    *(_bold(of_claim(p, average)) for p in others),
                ]
            ],
        )
        if others
        else "Average pooling alone was run: there is nothing to compare it with.",
        _sentences(average, others, f"than {LABELS[BASELINE]}"),
        _cautions(settings, others),
        _rule(settings.seeds),
        "## What the classifiers had learned, and the rates",
        _rates(settings, choices, runs),
        "## Against average pooling",
        _detail(average, LABELS[BASELINE]) if average else "Nothing was run.",
        "![AP by epoch of fine-tuning, mean and standard deviation over seeds](precision.png)",
        "## Against random weights",
        "What has to hold before transfer can be compared: that a trained trunk is of use at all.",
        _sentences(random, [BASELINE, *others], f"than {LABELS[RANDOM]}"),
        _detail(random, LABELS[RANDOM]),
        "## What was done",
        _method(settings, data),
        "![Scenes to test on, and what is to be found in them](scenes.png)",
        "## What this can show, and what it cannot",
        _limits(settings, runs, random),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _sentences(verdicts: Sequence[Verdict], trunks: Sequence[str], than: str) -> str:
    """Write a sentence for each trunk: whether it is better, by how much, and what speaks against it."""
    lines = []
    for trunk in trunks:
        own = [one for one in verdicts if one.pool == trunk and one.measure.key in DECIDING]
        gains = "; ".join(f"{one.measure.text} {_signed(one)}" for one in own)
        worse = [one.measure.text for one in own if isfinite(one.margin) and -one.gain > one.margin]
        against = f" Worse beyond the margin: {'; '.join(worse)}." if worse else ""
        lines.append(f"- {LABELS[trunk]}, better {than}: {_bold(of_claim(trunk, verdicts))}. Gains: {gains}.{against}")
    return "\n".join(lines)


def _signed(one: Verdict) -> str:
    text = plus_minus(one.gain, one.margin)
    return f"+{text}" if one.gain > 0 else text


def _detail(verdicts: Sequence[Verdict], against: str) -> str:
    """Write the table of verdicts: means and standard deviations over seeds, gain with its margin, outcome."""
    rows = []
    for one in verdicts:
        shown = "" if one.measure.key in DECIDING else " (shown only)"
        rows.append(
            [
                f"{one.measure.text}{shown}",
                LABELS[one.pool],
                over_seeds(one.baseline_figures, one.baseline_mean, one.baseline_spread, "infinite"),
                over_seeds(one.figures, one.mean, one.spread, "infinite"),
                over_seeds(one.gains, one.gain, one.margin, "none"),
                one.outcome,
            ]
        )
    return table(["measure, %", "trunk", against, "this trunk", "gain", "verdict"], rows)


def _rates(settings: Settings, choices: Sequence[Choice], runs: Sequence[Run]) -> str:
    """Write what every rate gave, and which were chosen."""
    known, learning = classifier_rates(choices), detector_rates(choices)
    tested = {
        pool: [run.accuracy for run in of_trunk(runs, pool) if run.accuracy is not None] for pool in settings.pools
    }
    classifiers = [
        [LABELS[pool], *_tried(tried, known[pool]), plus_minus(fmean(tested[pool]), spread(tested[pool]))]
        for pool, tried in of_classifiers(choices).items()
    ]
    detectors = [[LABELS[trunk], *_tried(tried, learning[trunk])] for trunk, tried in of_detectors(choices).items()]
    ends = [
        f"the {what} of {LABELS[trunk]} ({rate:g})"
        for what, grid, chosen in (
            ("classifier", settings.classifier_rates, known),
            ("detectors", settings.detector_rates, learning),
        )
        for trunk, rate in chosen.items()
        if len(grid) > 1 and rate in (min(grid), max(grid))
    ]
    at_an_end = (
        f"At an end of its grid, where a wider one might do better: {'; '.join(ends)}."
        if ends
        else "No rate that was chosen is at an end of its grid."
    )
    parts = [
        table(
            [
                "pooling: accuracy on single digits, %",
                *(f"validation, rate {rate:g}" for rate in settings.classifier_rates),
                "test, chosen rate",
            ],
            classifiers,
        ),
        table(
            [
                "trunk: Mask R-CNN, AP of masks, %",
                *(f"validation, rate {rate:g}" for rate in settings.detector_rates),
            ],
            detectors,
        ),
        paragraph(f"""
            Both rates were chosen with digits of the validation part, from one seed, {settings.seeds}, which is in
            nothing else here: the classifier's for each pooling, then the detectors' for each trunk, of the classifier
            with its rate, after as long a training as those that are measured. That serves both detectors. Of equal
            rates the lowest is taken. {at_an_end}
        """),
        paragraph("""
            A rate of which it is said was taken first, until a training that is measured diverged with it: all seeds of
            that trunk were then measured anew with the next best.
        """)
        if any(one.diverged == MEASURED for one in choices)
        else "",
        paragraph("""
            All classifiers were trained for the same time. A trunk that goes into a detector is the one at the end of
            this, so that a pooling with which a classifier learns faster hands on more.
        """),
    ]
    return "\n\n".join(part for part in parts if part)


def _tried(tried: Mapping[float, Choice], chosen: float) -> list[str]:
    """Write a cell for each rate."""
    cells = []
    for rate, one in tried.items():
        remark = " (chosen)" if rate == chosen else " (diverged when measured)" if one.diverged else ""
        cells.append("diverged" if one.validation is None else f"{one.validation:.1f}{remark}")
    return cells


def _cautions(settings: Settings, others: Sequence[str]) -> str:
    """Say what a verdict leaves out, where it is read."""
    if not others:
        return ""
    # Of a ResNet without the stride of its last stage.
    positions = (-(-settings.single.size // 16)) ** 2
    items = (
        f"""
        A covariance of {settings.dim} channels is taken of {positions} positions, at the size of the classifiers'
        images, so that its rank is {min(settings.dim, positions - 1)} at most; in the published networks it is of 196
        positions. What is said here of {listed_and([LABELS[pool] for pool in others])} is said of them at this size.
        """,
        f"""
        The pooling is not the only difference from {LABELS[BASELINE]}: {listed_and([LABELS[pool] for pool in others])}
        also have a reduction before the covariance, a convolution of 1x1, batch normalisation and ReLU; a classifier of
        {settings.dim * (settings.dim + 1) // 2} inputs instead of {CHANNELS[-1]}; and a rate of their own.
        """,
        """
        The classifiers' optimiser is one for all, SGD. AdamW at 0.001, which was tried before, knew 92, 83 and 82 % of
        validation digits with average pooling, GCP and DropCov after 4 epochs: with it average pooling comes further
        than here, GCP less far. Only rates were chosen for each pooling by itself.
        """,
        f"""
        All seeds are judged on the same {plural(settings.test_scenes, "scene")}: the margin has a part for weights,
        training data and their order, and none for the choice of these scenes.
        """,
        f"""
        The {len(DECIDING)} measures that decide share a classifier in each seed, and so its luck: they are not as many
        independent witnesses.
        """,
    )
    return "\n\n".join(["To be read with this:", "\n".join(f"- {paragraph(text)}" for text in items)])


def _rule(seeds: int) -> str:
    subject = "the one seed" if seeds == 1 else f"each of the {seeds} seeds"
    return paragraph(f"""
        The rule is that of the other claims: {subject} gives one paired difference, the gain. **Supported**: the mean
        gain exceeds its margin, Student's t (97.5 %) times its standard error, over {SEEDS_TO_SUPPORT} seeds at least.
        **Not supported**: the mean gain is zero or negative. **Undecided**: positive but within the margin,
        or from fewer than {SEEDS_TO_SUPPORT} seeds. {DECIDES}, the mean over
        overlaps of 0.5 to 0.95, decides, of masks and of boxes: a trunk is supported if all {len(DECIDING)} are, and
        not supported if one is not. {" and ".join(SHOWN)}, at one overlap each, are shown. Tables give mean ± standard
        deviation over seeds, and for gains ± the margin. Nothing is corrected for the number of measures.
    """)


def _method(settings: Settings, data: ImageData) -> str:
    single, layout = settings.single, settings.layout
    items = (
        f"""
        Digits: {data.source} ({data.licence}). Those of the training part, {len(data.train)}, are all that classifiers
        and detectors learn from; those of the test part, {len(data.test)}, are in the scenes to test on.
        """,
        f"""
        Scenes: {layout.size}x{layout.size} pixels, {layout.digits[0]} to {layout.digits[1]} digits at random places,
        resized to a frame of {layout.heights[0]} to {layout.heights[1]} pixels, of brightness {BRIGHTNESS[0]:g} to
        {BRIGHTNESS[1]:g} on a background of {BACKGROUND[0]:g} to {BACKGROUND[1]:g} with noise of deviation {NOISE:g}. A
        digit that is painted later hides others, of which at least {100 * VISIBLE:.0f} % stay visible. A mask is the
        visible pixels where the stroke is at least {STROKE:g} of 1; a box is the extent of the mask.
        """,
        f"""
        Classifiers: torchvision's ResNet-18, the stride of its last stage dropped for every pooling, {settings.dim}
        channels after the reduction before a covariance; single digits drawn as in scenes, {single.size}x{single.size}
        pixels, {settings.digits} new drawings an epoch for {plural(settings.classifier_epochs, "epoch")}, in batches of
        {settings.classifier_batch}, with SGD, momentum {MOMENTUM:g}.
        """,
        f"""
        Detectors: torchvision's, smaller: {plural(len(ANCHORS), "level")} of anchors, a pyramid of {PYRAMID} channels
        on layer1, layer2 and layer4, which has as many positions as layer3 without its stride: they have the
        classifier's trunk as it is. Boxes from {COARSEST_FROM} pixels on, the root of their area, take their features
        from layer4's level, those from half of it on from layer2's, smaller ones from layer1's. Everything learns,
        batch normalisation too: torchvision freezes it, with which random weights cannot learn. The layers on the trunk
        begin with the same weights for all trunks of a seed, and the random trunk is what the trained ones of its seed
        began with. {settings.scenes} scenes, {plural(settings.epochs, "epoch")}, batches of {settings.batch}, AdamW.
        """,
        f"""
        Both: weight decay {WEIGHT_DECAY:g}, and a rate that rises to the largest, which was chosen as said above, and
        falls to nothing. Rates of detectors were chosen on {plural(settings.test_scenes, "scene")} with digits of the
        validation part. Nothing was chosen on the test part, on {plural(settings.test_scenes, "scene")} of which, the
        same for all, detectors are tested.
        """,
    )
    return "\n".join(f"- {paragraph(text)}" for text in items)


def _growth(runs: Sequence[Run]) -> str:
    """Say how much AP still grew at the end with each trunk; nothing where it was measured once."""
    of_trunks = []
    for trunk in trunks_of(runs):
        gains = []
        for run in of_trunk(runs, trunk):
            for kind, compared in dict.fromkeys((one.detector, one.compared) for one in run.precisions):
                *before, last = (one.AP for one in run.precisions if (one.detector, one.compared) == (kind, compared))
                gains += [last - before[-1]] if before else []
        if gains:
            of_trunks.append(f"{plus_minus(fmean(gains), spread(gains))} with {LABELS[trunk]}")
    if not of_trunks:
        return ""
    return (
        f"Between the last two measurements AP changed by {listed_and(of_trunks)} (points, mean ± standard deviation "
        "over seeds and what is compared); as the rate falls to nothing over them, that shows little of what more time "
        "would bring."
    )


def _limits(settings: Settings, runs: Sequence[Run], random: Sequence[Verdict]) -> str:
    useful = of_claim(BASELINE, random) == SUPPORTED
    first = (
        """
        Training as a classifier is of use to the detectors here, with average pooling already: a difference between
        poolings has something to show itself in.
        """
        if useful
        else """
        Whether training as a classifier is of use to the detectors at all is not shown here, with average pooling: a
        difference between poolings means little.
        """
    )
    items = (
        first,
        f"""
        It can show that trunks go over, in the names and with the features that detectors expect, and whether a pooling
        helps or harms by more than {plural(settings.seeds, "seed")} differ, in this task.
        """,
        """
        It cannot show what the papers measured, whose classifiers learn ImageNet and whose detectors learn COCO. Here
        digits are what is classified and what is found, so that the two tasks are as near to each other as they can be,
        and scenes have no clutter.
        """,
        f"""
        All trainings are short. {_growth(runs)} What is compared is how far detectors come in a given time, not where
        they would end.
        """,
        f"""
        Another number of channels before the covariance than {settings.dim} might change the order.
        """,
    )
    return "\n".join(f"- {paragraph(text)}" for text in items)


def _bold(text: str) -> str:
    return f"**{text}**" if text == SUPPORTED else text
