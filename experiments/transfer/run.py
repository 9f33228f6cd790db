"""The whole experiment of transfer: every run, the tables, the pictures and the report."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from gcp_kernels.commands.atomic_files import write_text
from gcp_kernels.extras import how_to_install, import_torchvision
from gcp_kernels.nn.poolings import BASELINE

from ..datasets import load_dataset
from ..reproduction.words import plural
from ..running import RUNS
from .average_precision import pycocotools
from .experiment import TEST_SEED
from .plots import LABELS, SHOWN, write_plots
from .report import report
from .runs import run_all, versions_of
from .scenes import draw_scenes
from .settings import DATA, RANDOM, SMALL, Settings
from .tables import write_tables
from .verdicts import of_claim, verdicts

# What the report and its plots need beside torchvision, pycocotools and the digits, by the module that shows it.
OF_DEMO = {"matplotlib.figure": "matplotlib", "scipy.special": "scipy"}

SMALL_MEANS_NOTHING = (
    "**The settings are the small ones: nothing was trained for long enough, and no verdict means anything.**"
)


def run(settings: Settings, folder: Path, say: Callable[[str], object]) -> None:
    """Make every run that the folder has not yet, and write tables, pictures and ``report.md`` into it.

    Each run is kept in ``runs.jsonl`` when it is done: called again with equal settings, an interrupted experiment goes
    on with the next.

    Args:
        settings: what is run.
        folder: made if it is not there.
        say: gets a line about each run that is done, and the verdicts at the end.

    Raises:
        ImportError: a package is missing; the message says how to install it.
        OtherRunsError: the folder has runs of other settings, versions or images; a ``ValueError``.
        NonFiniteLossError: with every rate of a trunk a training diverged; the message says of which.
        OSError: a file cannot be written; those before it are complete.
    """
    check_installed()
    folder.mkdir(parents=True, exist_ok=True)
    data = load_dataset(DATA, torch.device("cpu"))
    versions = versions_of(data)
    choices, runs, made = run_all(settings, versions, folder / RUNS, say)
    average, random = (verdicts(runs, baseline) for baseline in (BASELINE, RANDOM))
    write_tables(folder, choices, runs, {BASELINE: average, RANDOM: random})
    write_plots(folder, runs, draw_scenes(data.test, SHOWN, settings.layout, TEST_SEED))
    circumstances = (
        f"{plural(len(runs), 'run')} of two detectors each: {plural(len(settings.trunks), 'trunk')}, "
        f"{plural(settings.seeds, 'seed')}; {plural(len(choices), 'other')} to choose rates by",
        *made,
        f"{', '.join(' '.join(one) for one in versions.items())}; one thread for each run",
        *([SMALL_MEANS_NOTHING] if replace(settings, jobs=SMALL.jobs) == SMALL else []),
    )
    write_text(folder / "report.md", report(settings, data, choices, runs, average, random, circumstances))
    for trunk in settings.trunks:
        if trunk not in (BASELINE, RANDOM):
            say(f"{LABELS[trunk]}: transfers better than average pooling: {of_claim(trunk, average)}")


def check_installed() -> None:
    """Raise ``ImportError`` that says what to install, unless all that the experiment needs is there."""
    import_torchvision("the experiment of transfer needs", "models.detection")
    pycocotools("coco")
    for module, distribution in OF_DEMO.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ImportError(
                f"the experiment of transfer needs {distribution}, which is missing: {how_to_install('demo')}"
            ) from error
