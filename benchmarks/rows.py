"""A measurement as one flat row, and rows as JSON lines and CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gcp_kernels.commands.atomic_files import write_table, write_text

from .cases import Case

JSON_NAME = "results.jsonl"
CSV_NAME = "results.csv"
# How the problem of a row begins that the run had no time for; what was measured elsewhere is not lost by that.
NOT_BEGUN = "not begun within"


@dataclass(frozen=True)
class Row:
    """One provider on one case: a time, or a peak of memory, or the reason why there is none in ``problem``.

    Attributes:
        kind: "time"; "memory", a peak taken in fresh processes; "step", of a whole network.
        group: the sweep that the case belongs to.
        truth: what the provider is held to; ``error_limit`` is the limit for ``output_error`` and ``gradient_error``.
        root_distance: relative distance of the output from the exact root, for those that approximate it.
        method: how it was timed; ``cache`` says where the inputs were.
        milliseconds, low, high: median and quartiles over ``rounds``.
        eager_milliseconds: without a CUDA graph, where ``milliseconds`` is with one.
        ratio, ratio_low, ratio_high: time over that of ``baseline``, both with or both without a graph.
        bound_milliseconds: the roofline's; ``fraction`` is the share of it that was reached.
        peak_bytes: above what was there before the pass; ``saved_bytes`` is what autograd keeps from forward to
            backward, the features and the result apart, found by ``saved_method``.
        load: runnable processes of the machine over the last minute, this one's included; the state of the GPU follows.
    """

    kind: str
    group: str
    case: str
    batch: int
    channels: int
    height: int
    width: int
    positions: int
    n_iter: int
    dtype: str
    precision: str
    direction: str
    provider: str
    truth: str
    problem: str | None = None
    output_error: float | None = None
    gradient_error: float | None = None
    error_limit: float | None = None
    root_distance: float | None = None
    method: str | None = None
    cache: str | None = None
    milliseconds: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int | None = None
    eager_milliseconds: float | None = None
    baseline: str | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    useful_flop: int | None = None
    necessary_bytes: int | None = None
    bound_milliseconds: float | None = None
    fraction: float | None = None
    peak_bytes: int | None = None
    saved_bytes: int | None = None
    saved_method: str | None = None
    load: float | None = None
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None

    @classmethod
    def of(cls, kind: str, group: str, case: Case, provider: str, truth: str, **figures: Any) -> Row:
        return cls(
            kind, group, str(case), case.batch, case.channels, case.height, case.width, case.positions, case.n_iter,
            case.dtype, case.precision, case.direction, provider, truth, **figures,
        )  # fmt: skip

    @property
    def label(self) -> str:
        return f"{self.case} N={self.n_iter} {self.dtype} {self.precision} {self.direction}"

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two rows of two runs the same measurement."""
        return (self.kind, self.group, self.label, self.provider)


# Of the environment, as benchmarks.environment and benchmarks.speed.roofline have it, what is a number.
NUMBERS = ("threads", "cpus", "copy_gb_per_s", "product_tflop_per_s")
FIELDS = tuple(field.name for field in fields(Row))


def flat(row: Row, setting: dict[str, str | float]) -> dict[str, Any]:
    """Join the row's fields and those of the environment.

    JSON knows no infinity: an error that is not finite is null, and ``problem`` tells of it.
    """
    values = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(row).items()
    }
    return {**values, **setting}


class Writer:
    """Writes each row as it is measured, so that a run that ends early leaves what it has, and the CSV at the end."""

    def __init__(self, folder: Path, setting: dict[str, str | float]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._setting = setting
        self._written: list[dict[str, Any]] = []
        self.write([])

    def write(self, rows: Iterable[Row]) -> None:
        self._written += [flat(row, self._setting) for row in rows]
        lines = [json.dumps(values, allow_nan=False) + "\n" for values in self._written]
        write_text(self._folder / JSON_NAME, "".join(lines))

    def finish(self) -> None:
        write_table(self._folder / CSV_NAME, [*FIELDS, *self._setting], self._written)


@dataclass(frozen=True)
class Run:
    """Rows of a run and the environment of each, field by field."""

    rows: Sequence[Row]
    environments: Sequence[dict[str, Any]]

    @property
    def environment(self) -> dict[str, Any]:
        """That of the first row."""
        return self.environments[0]


def read(path: Path) -> Run:
    """Read a run from its folder, or from its file of JSON lines or CSV; a folder may hold either.

    Raises:
        ValueError: there is no such file, it has no rows, or a line is not a row.
    """
    file = path
    if path.is_dir():
        file = next((path / name for name in (JSON_NAME, CSV_NAME) if (path / name).is_file()), path / JSON_NAME)
    if not file.is_file():
        raise ValueError(f"{file} is not a file; give the folder of a run, or its {JSON_NAME} or {CSV_NAME}")
    rows, environments = [], []
    try:
        for values in read_csv(file) if file.suffix == ".csv" else read_json(file):
            rows.append(Row(**{name: values.pop(name) for name in FIELDS}))
            environments.append(values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: number {len(rows) + 1} is not a row of a run: {error!r}") from error
    if not rows:
        raise ValueError(f"{file} has no rows")
    return Run(rows, environments)


def read_json(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as stream:
        yield from map(json.loads, stream)


def read_csv(file: Path) -> Iterator[dict[str, Any]]:
    """Read rows as JSON lines have them: what is not text is a number, and an empty cell of a row's field is None."""
    texts = {field.name for field in fields(Row) if "str" in str(field.type)}
    with file.open(encoding="utf-8", newline="") as stream:
        for cells in csv.DictReader(stream):
            values: dict[str, Any] = dict(cells)
            for name in (*FIELDS, *NUMBERS):
                if name in values and name not in texts:
                    values[name] = json.loads(values[name]) if values[name] else None
                elif name in texts:
                    values[name] = values[name] or None
            yield values
