"""A tuned table as source: what the backend's configuration is to have in place of its own, with the reasons."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gcp_kernels.ops.triton_device.policy import Choices, OnChip, Thresholds, Tiling
from gcp_kernels.precision import PLANES

from .search import Found

WIDTH = 120
FIELDS = {
    "on-chip-forward": "on_chip_forward",
    "on-chip-backward": "on_chip_backward",
    "positions-forward": "positions_forward",
    "positions-backward": "positions_backward",
    "persistent-forward": "forward",
    "persistent-backward": "backward",
    "phases": "phases",
}
NOT_MEASURED = "as shipped, not measured in this run"

# Where a reason belongs: the field, the planes, and on chip the side of the matrices.
Place = tuple[str, int, int]


@dataclass(frozen=True)
class TunedTable:
    """The tables as they are after what was found so far, and the reasons."""

    name: str
    choices: Choices
    covariance: Tiling
    reasons: Mapping[Place, str] = field(default_factory=dict)
    threshold_reason: str | None = None
    covariance_reason: str | None = None

    def with_found(self, found: Found) -> TunedTable:
        """Give the table with an entry as it was found."""
        entry, option = found.entry, found.option
        if entry.kernel == "covariance":
            assert isinstance(option, Tiling)
            return replace(self, covariance=option, covariance_reason=found.reason)
        name, planes = FIELDS[entry.kernel], PLANES[entry.precision]
        values: Any = dict(getattr(self.choices, name))
        if entry.side:
            others = [choice for choice in values[planes] if choice.size != entry.side]
            added = [option] if isinstance(option, OnChip) else []
            values[planes] = tuple(sorted([*others, *added], key=lambda choice: choice.size))
        else:
            values[planes] = option
        reasons = {**self.reasons, (name, planes, entry.side): found.reason}
        return replace(self, choices=_with(self.choices, name, values), reasons=reasons)

    def with_thresholds(self, thresholds: Thresholds, why: str) -> TunedTable:
        return replace(self, choices=replace(self.choices, thresholds=thresholds), threshold_reason=why)

    def source(self, header: Iterable[str]) -> str:
        """Python that defines the table, and the tiling of covariances where that was searched for."""
        lines = [line for text in header for line in comment(text, "")]
        lines.append(f"{self.name} = Choices(")
        for name in FIELDS.values():
            lines.append(f"    {name}={{")
            for planes, value in getattr(self.choices, name).items():
                lines += (self._on_chip if isinstance(value, tuple) else self._tiling)(name, planes, value)
            lines.append("    },")
        lines += comment(self.threshold_reason or NOT_MEASURED, "    ")
        lines += [f"    thresholds={self.choices.thresholds},", ")"]
        if self.covariance_reason is not None:
            lines += ["", *comment(self.covariance_reason, ""), f"COVARIANCE = {self.covariance}"]
        return "\n".join(lines) + "\n"

    def _on_chip(self, name: str, planes: int, shipped: tuple[OnChip, ...]) -> Iterator[str]:
        yield f"        {planes}: ("
        absent = {side: why for (at, of, side), why in self.reasons.items() if (at, of) == (name, planes)}
        for choice in shipped:
            yield from comment(absent.pop(choice.size, NOT_MEASURED), "            ")
            yield f"            {choice},"
        for side, why in sorted(absent.items()):
            of = "positions" if name.startswith("positions") else "channels"
            yield from comment(f"no entry for {side} {of}: {why}", "            ")
        yield "        ),"

    def _tiling(self, name: str, planes: int, tiling: Tiling) -> Iterator[str]:
        yield from comment(self.reasons.get((name, planes, 0), NOT_MEASURED), "        ")
        yield f"        {planes}: {tiling},"


def _with(choices: Choices, name: str, values: Any) -> Choices:
    changed: dict[str, Any] = {name: values}
    return replace(choices, **changed)


def comment(text: str, indent: str) -> list[str]:
    """Comment lines."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_long_words=False
    )
