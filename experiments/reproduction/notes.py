"""What has to be said of the measures, and what differs from the papers."""

from math import nan

from ..datasets import ImageData
from ..training import BACKBONES
from .corruptions import UNITS, amounts
from .flatness import RESIDUAL_ALLOWED
from .settings import MOMENTUM, WEIGHT_DECAY, Settings, ends_at_rate_zero, step_sizes, walk_every
from .words import listed_and, paragraph, plural, plus_minus

NOTES = {
    1: """
        As in the papers the walk is y + d g from the stem's output y along the gradient g, the same d for all poolings.
        A network with smaller gradients therefore walks less far, and part of a narrower band is that; the relative
        measure divides by the loss, and beta by the length walked. y leaves a BatchNorm and has about the same size in
        all. Along one walk DropCov keeps one mask.
    """,
    2: "Distances are absolute, as in the papers; the relative measure divides by the norm of the gradient itself.",
}


DEAD_CHANNELS = """
    Of the 8 channels behind MobileNetV2/4's stem one may be zero in a whole batch. The BatchNorm behind it then divides
    by a variance of zero, so that nearly all of the gradient, where the walk starts or a step on, is in that channel,
    hundreds of times that of the others, and the walk goes where training cannot. So it was on mnist in two seeds that
    are far from the others and were looked into, one with average pooling, one with GCP.
"""


BY_THE_RATE = """
    Each pooling has its own learning rate, and where these differ a part of the difference here is theirs: the rate
    bounds how sharp a place training can stay at (Cohen et al., ICLR 2021).
"""


def on_robustness(settings: Settings, data: ImageData) -> str:
    """Say what the errors under corruption are."""
    of_data = amounts(data.name)
    count = settings.corrupted_images
    images = "all test images" if count is None or count >= len(data.test) else f"{count} of the test images"
    return paragraph(f"""
        On {images}. Mean corruption error: for every corruption the error summed over strengths, in per cent of average
        pooling's, then the mean over corruptions, as Hendrycks & Dietterich (2019) define it with AlexNet. Accuracy
        lost is the accuracy on clean images less the mean under corruption: what is left when a better start is taken
        out. Strengths 1 to 5 are: {"; ".join(f"{name} {', '.join(map(str, of_data[name]))}" for name in of_data)}
        ({"; ".join(UNITS[name] for name in of_data)}).
    """)


def on_flatness(settings: Settings, data: ImageData, residual: float) -> str:
    """Say what curvature and rise are, and how exact."""
    return paragraph(f"""
        On a fixed part of the training images ({min(settings.flatness_images, len(data.train))} of them), in evaluation
        mode. The curvature
        of cross-entropy shrinks with the loss itself, so that a network which fits better is flatter by that alone; the
        relative measure divides by the loss. The eigenvalue is the largest in magnitude, and depends on how the
        classifier is parametrised (it has C (C + 1) / 2 inputs for covariances of C channels, and C for average
        pooling), the filter-normalised rise less so. It comes from at most
        {plural(settings.hessian_iterations, "step")} of power iteration; the residual
        ‖Hv - λv‖ is at most {plus_minus(100 * residual, nan)} % of the eigenvalue in these runs. An eigenvalue
        with more than {100 * RESIDUAL_ALLOWED:g} % is taken for no number, and leaves its measure undecided.
    """)


def differences(settings: Settings, data: ImageData) -> str:
    """List what differs from the papers."""
    still = ", the last of which has rate zero, as published" if ends_at_rate_zero(settings) else ""
    every = walk_every(settings, len(data.train))
    maps = "; ".join(f"{BACKBONES[name].title}: {_map(name, data)}" for name in settings.networks)
    paragraphs = (
        f"""
        Data: {len(data.train)} training images of {data.size}x{data.size} in {len(data.classes)} classes. The papers
        have ImageNet, whose training images are 1.28 million; fewer favour what fits fast.
        """,
        f"""
        Networks: small ones with random weights, "/4" with a quarter of the published channels, of which every pooling
        has the same, map and all: no reduction before
        the pooling, and no stride that only average pooling has. What is pooled: {maps}. The papers have ResNets and
        MobileNetV2 with 256 channels, and a stride fewer with covariance pooling.
        """,
        f"""
        Training: the papers' schedule "{settings.schedule}", stretched over {plural(settings.epochs, "epoch")}{still},
        with SGD (momentum {MOMENTUM}, weight decay {WEIGHT_DECAY}) and batches of {settings.batch_size}; theirs run 30
        to 100 epochs with batches of 256. No augmentation.
        """,
        f"""
        Landscape: {settings.landscape_steps} evenly spaced d {_walks(settings)}, every
        {"" if every == 1 else f"{every} "}training step{"" if every == 1 else "s"}, on the training batch and in
        training mode; the papers have 50, from 0.1 to 75 on ResNets and 0.045 to 1.5 on MobileNetV2. They show bands;
        here a band's mean over training is the one number. It depends on the steps that are walked from, most on the
        first ones, and its deviation over seeds does not show how much. Beta, which counts too, is not theirs but
        Santurkar et al.'s (2018).
        """,
        """
        Robustness: four corruptions, with amounts for these images or for small ones, instead of the fifteen of
        ImageNet-C, and no sequences of perturbations.
        """,
        f"""
        Seeds: {settings.seeds}. They vary weights, order and masks; the split of the images is the same in all, so
        that the spread does not include that of other data.
        """,
        *OF_DATA.get(data.name, ()),
    )
    return "\n".join(f"- {paragraph(text)}" for text in paragraphs)


# What is to be said of one data set.
OF_DATA = {
    "digits": (
        """
        Older choices: the batch size and the amounts of the corruptions were set in earlier versions by digits that are
        test images now.
        """,
    ),
}


def _walks(settings: Settings) -> str:
    """Say between which step sizes the walks of each network go."""
    of_range: dict[str, list[str]] = {}
    for network in settings.networks:
        low, *_, high = step_sizes(settings, network)
        of_range.setdefault(f"from {low:g} to {high:g}", []).append(BACKBONES[network].title)
    if len(of_range) == 1:
        return next(iter(of_range))
    return " and ".join(f"{words} on {listed_and(titles)}" for words, titles in of_range.items())


def _map(network: str, data: ImageData) -> str:
    size = data.size
    for stride in BACKBONES[network].strides(data.size):
        size = -(-size // stride)
    return f"{size}x{size} positions"
