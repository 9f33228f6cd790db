"""What is run, and what of it for each data set: the settings of the reproduction, with roots for poolings."""

from dataclasses import replace

from ..reproduction.settings import Settings
from ..reproduction.settings import defaults as of_reproduction

COMPARED = (*(f"n{n}" for n in range(1, 11)), "exact", "optimal3", "optimal5", "optimal7")


def of_data(data: str) -> Settings:
    """Return the settings for a data set.

    The rates are those around the one that GCP takes of the reproduction's grid on digits and mnist, 0.2. One seed
    chooses, for it is one rate that all roots get.
    """
    return replace(
        of_reproduction(data), networks=("cnn",), pools=COMPARED, rates=(0.1, 0.2, 0.4), extensions=0,
        choosing_seeds=1, seeds=5, corrupted_images=0,
    )  # fmt: skip


# A training on typefaces has 30,000 images in 10 epochs, one on mnist 20,000; each takes half a minute to a
# minute and a half on one core.
DEFAULTS = {
    "digits": of_data("digits"),
    "mnist": of_data("mnist"),
    "typefaces": replace(of_data("typefaces"), epochs=10),
}


def defaults(data: str) -> Settings:
    """Return the settings of a data set or a folder of images."""
    return DEFAULTS.get(data, of_data(data))


def small(settings: Settings) -> Settings:
    """Return half of the roots and three seeds, of which verdicts can be given; about two minutes on digits."""
    return replace(settings, pools=("n1", "n3", "n5", "n10", "exact", "optimal5"), seeds=3)


def check(settings: Settings) -> Settings:
    """Return so little that it shows within seconds that everything works."""
    return replace(
        settings, images=90, pools=("n1", "n5", "exact", "optimal3"), rates=(0.1,), seeds=2, epochs=1,
        batch_size=30, landscape_every=3, landscape_steps=3, flatness_images=30, hessian_iterations=3,
        surface_directions=1,
    )  # fmt: skip
