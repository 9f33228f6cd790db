"""The report in Markdown: whether a better root trains better in this run. Every sentence follows from the data."""

from collections.abc import Mapping, Sequence
from math import inf, isfinite, isnan, log
from statistics import fmean

from ..datasets import ImageData
from ..reproduction.choice import chosen_rates, validation_accuracy
from ..reproduction.claims import SEEDS_TO_SUPPORT, Figures, Verdict, spread
from ..reproduction.figures import worst_residual
from ..reproduction.flatness import RESIDUAL_ALLOWED
from ..reproduction.runs import CHOOSE, MEASURE, Run, of_kind
from ..reproduction.settings import Settings
from ..reproduction.words import listed_and, over_seeds, paragraph, plural, plus_minus, table
from ..training import BACKBONES
from .coefficients import optimal_cubics
from .comparison import MEASURES, ROOT_ERROR, beyond_margin, margins_together, nearer_roots, same_features
from .optimal_root import SMALLEST_EIGENVALUE
from .roots import OPTIMAL, PUBLISHED, ROOTS

_PUBLISHED = f"{ROOTS[PUBLISHED].family} with N = {ROOTS[PUBLISHED].steps}"
# How a sentence begins that is about a measure, and what is better in it.
_WORDS = {
    "accuracy": ("The test accuracy", "higher", "lower"),
    "loss_range": ("The range of the loss along its gradient", "smaller", "larger"),
    "loss_range_relative": ("That range divided by the loss", "smaller", "larger"),
    "beta": ("The effective beta-smoothness", "smaller", "larger"),
    "hessian_eigenvalue": ("The largest Hessian eigenvalue at the end", "smaller", "larger"),
    "surface_rise": ("The rise of the loss around the end", "smaller", "larger"),
    "surface_rise_relative": ("That rise divided by the loss", "smaller", "larger"),
}


def report(
    settings: Settings,
    data: ImageData,
    runs: Sequence[Run],
    figures: Figures,
    every: Sequence[Verdict],
    versions: Mapping[str, str],
    made: Sequence[str],
) -> str:
    """Write the whole report.

    Args:
        settings: what was run.
        data: on what.
        runs: all of them.
        figures: of every measure, by root.
        every: the verdicts on them, against the published root.
        versions: of packages and images.
        made: lines on who made the runs, and when.
    """
    measured = of_kind(MEASURE, runs)
    network = BACKBONES[settings.networks[0]].title
    circumstances = [
        f"{len(data.train)} training, {len(data.validation)} validation and {len(data.test)} test images of "
        f"{data.size}x{data.size} in {len(data.classes)} classes; {network}, {plural(settings.seeds, 'seed')}, "
        f"{plural(settings.epochs, 'epoch')}, schedule {settings.schedule!r}, batches of {settings.batch_size}",
        f"Images: {data.source}. Licence: {data.licence}. Fingerprint: {versions['images']}.",
        f"{plural(len(runs), 'run')}{'' if 'kernels' in versions else ' of one thread'}, "
        + ", ".join(f"{name} {versions[name]}" for name in ("gcp_kernels", "torch", "kernels") if name in versions),
        *made,
    ]
    sections = [
        f"# Does a better square root train better? {data.name}",
        "\n".join(f"- {line}" for line in circumstances),
        "## Answer",
        answer(figures, every),
        "![each measure against the number of iterations, mean and standard deviation over seeds](roots.png)",
        "## Figures",
        _figures(figures, every, settings),
        _rule(settings, worst_residual(measured), sum(v.measure != ROOT_ERROR for v in every)),
        _time(settings, measured, len(data.classes)),
        "## The roots",
        _roots(settings),
        _distances(figures),
        _spectrum(figures),
        "## The learning rate",
        _rates(settings, runs),
    ]
    return "\n\n".join(sections) + "\n"


def answer(figures: Figures, every: Sequence[Verdict]) -> str:
    """Write the paragraph: what is beyond its margin against the published root, and what it says of better roots."""
    errors = same_features(figures, "error")
    nearer = nearer_roots(figures)
    others = f"{len(nearer)} of {plural(len(errors) - 1, 'other')}"
    sentences = [
        f"On what networks pool that were trained with {_PUBLISHED}, this root is {100 * fmean(errors[PUBLISHED]):.2g} "
        "% from the exact one; "
        + (f"nearer, with every seed: {_names(nearer)} ({others})." if nearer else "no other root is nearer.")
    ]
    accuracies = figures["accuracy"]
    best = max(accuracies, key=lambda root: (fmean(accuracies[root]), root == PUBLISHED))
    sentences.append(
        f"The highest mean accuracy has {_names([best])}: {_mean(accuracies[best])} %"
        + ("." if best == PUBLISHED else f" against {_mean(accuracies[PUBLISHED])} % of {_PUBLISHED}.")
    )
    for key, (subject, better, worse) in _WORDS.items():
        if key in figures:
            sentences.append(_sentence(every, key, subject, better, worse))
    sentences.append(_conclusion(every, nearer))
    return paragraph(" ".join(sentences))


def _sentence(every: Sequence[Verdict], key: str, subject: str, better: str, worse: str) -> str:
    of_it = [v for v in every if v.measure.key == key]
    missing = [v.pool for v in of_it if isnan(v.gain)]
    if len(missing) == len(of_it):
        return f"{subject} is no number in this run, so that nothing is compared."
    none = f" There is no number to compare with {_names(missing)}." if missing else ""
    parts = [
        f"{word} with {_names(roots)}"
        for word, roots in ((better, beyond_margin(every, key, 1)), (worse, beyond_margin(every, key, -1)))
        if roots
    ]
    if not parts:
        return f"{subject} is not beyond its margin from that of {_PUBLISHED} with any other root.{none}"
    return f"{subject} is, beyond its margin, {' and '.join(parts)}.{none}"


def _conclusion(every: Sequence[Verdict], nearer: Sequence[str]) -> str:
    if not nearer:
        return "No root that was run is better than the published one, so nothing can be said about better ones."
    seeds = every[0].seeds
    if seeds < SEEDS_TO_SUPPORT:
        return f"From {plural(seeds, 'seed')} it cannot be said whether the better roots train better."
    margins = margins_together(every, "accuracy")
    together = f"the margins for all {plural(len(margins), 'comparison')} together"
    gains = {v.pool: v.gain for v in every if v.measure.key == "accuracy" and v.pool in nearer}
    higher, lower = ([root for root, gain in gains.items() if sign * gain > margins[root]] for sign in (1, -1))
    if not higher and not lower:
        least, most = (f"{end(margins[root] for root in nearer):.2f}" for end in (min, max))
        return (
            "So no better root is seen to train to another accuracy than the published one; a difference would be seen "
            f"beyond {least} to {most} points, {together}."
        )
    parts = [
        f"{len(roots)} of the {len(nearer)} better roots train to a {word} accuracy"
        for word, roots in (("higher", higher), ("lower", lower))
        if roots
    ]
    decides = ": nearness to the exact root does not decide it" if higher and lower else ""
    return f"So {' and '.join(parts)} than the published one, beyond {together}{decides}."


def _names(roots: Sequence[str]) -> str:
    """List roots, with the numbers of iterations of a family together: "Newton-Schulz, N = 1 and 2"."""
    families: dict[str, list[str]] = {}
    for root in roots:
        families.setdefault(ROOTS[root].family, []).append(str(ROOTS[root].steps or ""))
    names = [
        f"{family} with N = {listed_and(steps)}" if steps != [""] else f"the {family}"
        for family, steps in families.items()
    ]
    return "; ".join(names)


def _mean(values: Sequence[float]) -> str:
    return plus_minus(fmean(values), spread(values))


def _figures(figures: Figures, every: Sequence[Verdict], settings: Settings) -> str:
    shown = [measure for measure in (*MEASURES, ROOT_ERROR) if measure.key in figures]
    better = {(v.measure.key, v.pool) for v in every if v.gain > v.margin}
    worse = {(v.measure.key, v.pool) for v in every if -v.gain > v.margin}
    rows = []
    for root in settings.pools:
        cells = []
        for measure in shown:
            values = figures[measure.key][root]
            text = over_seeds(values, sum(values) / len(values), spread(values), measure.infinite)
            place = (measure.key, root)
            cells.append(f"**{text}**" if place in better else f"*{text}*" if place in worse else text)
        rows.append([ROOTS[root].label, *cells])
    return table(["root", *(measure.text for measure in shown)], rows)


def _rule(settings: Settings, residual: float, comparisons: int) -> str:
    return paragraph(f"""
        Mean ± standard deviation over {plural(settings.seeds, "seed")}. **Bold** is better than
        {_PUBLISHED}, and *italic* worse, beyond the margin of the differences of the same seeds, t s /
        sqrt(n) with Student's 97.5 % quantile, the rule of the other reports; "better" is higher accuracy and less of
        everything else. Nothing is corrected for the number of comparisons: of {comparisons} that make no difference
        one in twenty would lie beyond the margin, to either side, by chance. A Hessian eigenvalue counts where its
        relative residual is at most {RESIDUAL_ALLOWED:g}; the largest one was {residual:.2g}.
    """)


def _time(settings: Settings, measured: Sequence[Run], classes: int) -> str:
    ends = {
        root: fmean(inf if run.diverged else run.epochs[-1].loss for run in measured if run.pool == root)
        for root in settings.pools
    }
    losses = {root: loss for root, loss in ends.items() if isfinite(loss)}
    text = f"""All roots are trained for {plural(settings.epochs, "epoch")}: what is compared is how far they come in
        that time, not where they would end."""
    if losses:
        extremes = (end(losses, key=losses.__getitem__) for end in (min, max))
        least, most = (f"{losses[root]:.2g} ({_names([root])})" for root in extremes)
        text += f""" Their mean training loss in the last epoch is {least} to {most}; guessing has
        {log(classes):.2g}."""
    return paragraph(text)


def _roots(settings: Settings) -> str:
    text = """
        Every iteration begins with the covariance divided by its trace, and its result is multiplied by the root of
        the trace. Of an eigenvalue v it gives sqrt(v) x, where x begins as sqrt(v) and should become 1: Newton-Schulz
        takes x to (3 x - x^3) / 2 in every step. The exact root is by eigendecomposition.
    """
    steps = [ROOTS[root].steps for root in settings.pools if ROOTS[root].family == OPTIMAL]
    if not steps:
        return paragraph(text)
    cubics = optimal_cubics(SMALLEST_EIGENVALUE**0.5, max(step for step in steps if step))
    rows = []
    newton_schulz = SMALLEST_EIGENVALUE**0.5
    for number, cubic in enumerate(cubics, 1):
        newton_schulz = newton_schulz * (3 - newton_schulz**2) / 2
        rows.append([str(number), f"{cubic.a:.6f}", f"{cubic.b:.6f}", f"{cubic.error:.2g}", f"{1 - newton_schulz:.2g}"])
    return "\n\n".join(
        [
            paragraph(f"""{text} The optimal cubics take it to a x - b x^3 with the coefficients of each step that make
            the largest |1 - x|, over eigenvalues from {SMALLEST_EIGENVALUE:g} of the trace to the trace, as small as
            can be (Amsel et al., arXiv 2505.16932; Grishina et al., arXiv 2506.10935), for the same number of matrix
            products:"""),
            table(["step", "a", "b", "largest relative error", "that of Newton-Schulz"], rows),
            paragraph("""Newton-Schulz's largest error is at the smallest eigenvalue, and those of most of the trace
            have nearly none; the cubics spread theirs evenly, over the large eigenvalues too. So with few steps the
            relative distance to the exact root, which the large ones decide, can be greater with the cubics."""),
        ]
    )


def _distances(figures: Figures) -> str:
    of_roots = [same_features(figures, distance) for distance in ("error", "rescaled", "norm")]
    rows = [
        [ROOTS[root].label, *(f"{fmean(values[root]):.3g}" for values in of_roots)] for root in figures[ROOT_ERROR.key]
    ]
    head = ("root", "relative distance to the exact root", "the same, best multiplied by a number", "norm / exact norm")
    return "\n\n".join(
        [
            paragraph(f"""
                All roots of the same features, those of the networks that were trained with {_PUBLISHED}: which one is
                nearer is told by this table. Too few steps leave a root too small as a whole, which the classifier can
                make good, and what is left is in the second column; but the scale bears on the absolute measures above,
                as a larger or smaller rate does.
            """),
            table(head, rows),
        ]
    )


def _spectrum(figures: Figures) -> str:
    names = ("largest_eigenvalue", "median_eigenvalue", "eigenvalues_below", "trace_below")
    largest, median, below, trace = (fmean(figures[name][PUBLISHED]) for name in names)
    return paragraph(f"""
        In networks trained with {_PUBLISHED}, on training images, the largest eigenvalue is
        {largest:.2g} of the trace and the median {median:.2g}; {100 * below:.2g} % of the eigenvalues are below
        {SMALLEST_EIGENVALUE:g} of the trace, and they have {100 * trace:.2g} % of it.
    """)


def _rates(settings: Settings, runs: Sequence[Run]) -> str:
    accuracies = validation_accuracy(runs)
    (network,) = settings.networks
    own = chosen_rates(runs)
    measured = next(run.job.rate for run in of_kind(MEASURE, runs))
    tried = sorted({run.job.rate for run in runs if run.job.kind == CHOOSE})
    rows = []
    for root in settings.pools:
        cells = []
        for rate in tried:
            key = (network, root, rate)
            cell = f"{accuracies[key][0]:.2f}" if key in accuracies else "diverged"
            cells.append(f"**{cell}**" if rate == own[network, root] else cell)
        rows.append([ROOTS[root].label, *cells])
    before = paragraph(f"""
        All roots were measured with the rate {measured:g}, that of the highest accuracy of {_PUBLISHED} on validation
        images: curvature and smoothness depend on the rate, and with rates of their own roots would differ in them by
        that alone. Another root may do better with another rate. The accuracy on validation images with every rate, in
        per cent, mean over {plural(settings.choosing_seeds, "seed")} that nothing else uses, the best in bold:
    """)
    after = []
    if len(tried) > 1 and measured in (tried[0], tried[-1]):
        after.append(f"{measured:g} is at an end of the grid: beyond it there may be a better one.")
    if diverged := sum(run.diverged for run in runs):
        after.append(f"A rate with which a training of any root diverged is not taken; trainings that did: {diverged}.")
    after.append("On test images nothing was chosen.")
    return "\n\n".join([before, table(["root", *(f"{rate:g}" for rate in tried)], rows), " ".join(after)])
