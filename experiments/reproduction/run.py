"""All runs of the reproduction, and the folder that they are written to."""

from collections.abc import Callable, Sequence
from pathlib import Path

from gcp_kernels.commands.atomic_files import write_text

from ..training import DigitsSplit, NonFiniteLossError, steps_per_epoch
from .claims import Verdict, verdicts
from .experiment import Run, Settings, train_and_measure
from .figures import figures_of, worst_residual
from .plots import write_plots
from .report import report
from .tables import write_claims, write_tables


def run_all(settings: Settings, digits: DigitsSplit, say: Callable[[str], object]) -> list[Run]:
    """Run every pool from every seed, in turn. ``say`` gets a line about each that is done, a terminal a bar.

    Raises:
        NonFiniteLossError: a training diverged; the message says which.
    """
    from tqdm import tqdm

    runs = []
    steps = settings.epochs * steps_per_epoch(len(digits.train_labels), settings.batch_size)
    with tqdm(total=len(settings.pools) * settings.seeds * steps, unit="step", leave=False, disable=None) as bar:
        for seed in range(settings.seeds):
            for pool in settings.pools:
                try:
                    run = train_and_measure(pool, seed, digits, settings, bar.update)
                except NonFiniteLossError as error:
                    raise NonFiniteLossError(f"{pool}, seed {seed}: {error}") from error
                runs.append(run)
                with bar.external_write_mode():
                    last = run.epochs[-1]
                    say(f"seed {seed}, {pool}: loss {last.loss:.4f}, accuracy {last.accuracy:.2f} %")
    return runs


def write_folder(folder: Path, settings: Settings, runs: Sequence[Run], circumstances: Sequence[str]) -> list[Verdict]:
    """Write tables, plots and ``report.md`` into an existing folder, and return the verdicts.

    What was measured is written first, before anything is computed from it that might fail.

    Raises:
        NotWrittenError: a file cannot be written, on a full disk for example; those before it are complete.
    """
    write_tables(folder, runs)
    figures = figures_of(runs)
    every = verdicts(figures)
    write_claims(folder, every)
    text = report(settings, figures, every, circumstances, worst_residual(runs))
    write_text(folder / "report.md", text)
    write_plots(folder, runs)
    return every
