"""All runs of the roots, and the folder that they are written to."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from gcp_kernels.commands.atomic_files import write_text
from gcp_kernels.validation import check_choice

from ..reproduction.origins import how_made, origin, versions_of
from ..reproduction.run import run_all
from ..reproduction.settings import Settings, processes
from ..reproduction.workers import load_images
from ..running import RUNS, Log
from .choice import common_rate
from .comparison import figures_of, verdicts
from .experiment import run_job
from .plots import write_plot
from .report import report
from .roots import PUBLISHED, ROOTS
from .tables import write_tables


def run(settings: Settings, folder: Path, say: Callable[[str], object], *, jobs: int | None = None) -> None:
    """Choose one learning rate for all roots, measure them, and write tables, ``roots.png`` and ``report.md``.

    Args:
        settings: one network, and for pools names of ``experiments.roots.roots.ROOTS``, the published one among them.
        folder: is made. With runs of the same settings it goes on where they were interrupted.
        say: gets a line about each run that is done.
        jobs: runs at the same time, which change no result; ``None`` for as many as the CPU has cores, or one on a GPU.

    Raises:
        ValueError: another root, or none to compare with the published one; several networks.
        OtherRunsError: the folder has runs of other settings, versions or images.
        NonFiniteLossError: with every rate of a root a training diverged; the message says of which.
        ImportError: a package that has the images is not installed; the message says how to.
    """
    for root in settings.pools:
        check_choice("pools", root, tuple(ROOTS))
    if PUBLISHED not in settings.pools or len(settings.pools) == 1:
        raise ValueError(f"pools must have {PUBLISHED!r} and another root to compare with it, got {settings.pools}")
    if len(settings.networks) != 1:
        raise ValueError(f"networks must be one, got {settings.networks}")
    data = load_images(settings)
    folder.mkdir(parents=True, exist_ok=True)
    device, at_a_time = torch.device(settings.device), jobs or processes(settings.device)
    versions = versions_of(data, device)
    log = Log(folder / RUNS, {**asdict(settings), **versions}, origin(device, at_a_time))
    runs = run_all(settings, log, at_a_time, say, run_job, common_rate)
    figures = figures_of(runs)
    every = verdicts(figures)
    write_tables(folder, runs, every)
    write_plot(folder / "roots.png", figures)
    write_text(folder / "report.md", report(settings, data, runs, figures, every, versions, how_made(log)))
