"""All runs of the reproduction, and the folder that they are written to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gcp_kernels.commands.atomic_files import write_text

from ..datasets import ImageData
from ..running import Log, Workers
from ..training import NonFiniteLossError
from .choice import Grids, Rates, choosing_jobs, chosen_rates, extended_grids, first_grids, measuring_jobs
from .claims import Figures, Verdict, verdicts
from .figures import corruptions_of, figures_of, worst_residual
from .plots import write_plots
from .report import report
from .runs import MEASURE, Job, Run, of_kind
from .settings import Settings
from .tables import write_claims, write_tables
from .workers import run as run_job


def run_all(
    settings: Settings,
    log: Log,
    processes: int,
    say: Callable[[str], object],
    run_job: Callable[[Job, Settings], Run] = run_job,
    choose: Callable[[Sequence[Run]], Rates] = chosen_rates,
) -> list[Run]:
    """Choose learning rates, then measure; what ``log`` has is not run again.

    Where a training diverges with the chosen rate, that rate is none, and the next best is taken.

    Args:
        settings: what is run.
        log: gets every run as soon as it is done.
        processes: how many runs go on at the same time; they do not change what comes out.
        say: gets a line about each run that is done, a terminal a bar.
        run_job: a function of a module, which does one.
        choose: the rate of each pooling of each network, from the runs there are; those with which a training diverged
            are among them, and their rates are none.

    Returns:
        All runs, in an order that depends on the settings alone.

    Raises:
        NonFiniteLossError: with every rate of a pooling a training diverged; the message says of which.
    """
    from tqdm import tqdm

    with Workers(processes) as workers, tqdm(unit="run", leave=False, disable=None) as bar:

        def run(jobs: Sequence[Job]) -> list[Run]:
            missing = {str(job): partial(run_job, job, settings) for job in jobs if str(job) not in log}
            for key, done, seconds in workers.finished(missing):
                log.add(key, done.to_save(), seconds)
                bar.update()
                with bar.external_write_mode():
                    say(f"{key}: loss {done.loss:.4f}, accuracy {done.accuracy:.2f} %")
            return [Run.from_saved(log[str(job)]) for job in jobs]

        grids: Grids = {}
        wider = first_grids(settings)
        while wider != grids:
            grids = wider
            runs = run(choosing_jobs(settings, grids))
            wider = extended_grids(settings, grids, runs)
        while True:
            rates = choose(runs)
            if without := [key for key in grids if key not in rates]:
                network, pool = without[0]
                raise NonFiniteLossError(f"{network}, {pool}: with every rate a training diverged")
            measured = run(measuring_jobs(settings, rates))
            runs += [done for done in measured if done.diverged]
            if not any(done.diverged for done in measured):
                return runs + measured


@dataclass(frozen=True)
class Outcome:
    """What was found, by network."""

    figures: Mapping[str, Figures]
    verdicts: Mapping[str, Sequence[Verdict]]


def outcome(settings: Settings, runs: Sequence[Run]) -> Outcome:
    """Compute figures and verdicts of what was measured."""
    figures, of_networks = {}, {}
    for network in settings.networks:
        measured = [run for run in of_kind(MEASURE, runs) if run.network == network]
        figures[network] = figures_of(measured)
        of_networks[network] = verdicts(figures[network], corruptions_of(measured))
    return Outcome(figures, of_networks)


def write_folder(
    folder: Path, settings: Settings, data: ImageData, runs: Sequence[Run], circumstances: Sequence[str]
) -> Outcome:
    """Write tables, plots and ``report.md`` into an existing folder, and return what they say.

    What was measured is written first, before anything is computed from it that might fail.

    Raises:
        NotWrittenError: a file cannot be written, on a full disk for example; those before it are complete.
    """
    write_tables(folder, runs)
    found = outcome(settings, runs)
    measured = of_kind(MEASURE, runs)
    write_claims(folder, found.verdicts)
    write_plots(folder, measured)
    text = report(settings, data, runs, found.figures, found.verdicts, circumstances, worst_residual(measured))
    write_text(folder / "report.md", text)
    return found
