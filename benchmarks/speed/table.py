"""What a run prints: a head, and a few lines for each case."""

from __future__ import annotations

from collections.abc import Sequence

from ..peers.providers import PROVIDERS
from ..rows import Row

SUMMARIES = {provider.name: provider.summary for provider in PROVIDERS}


def head(setting: dict[str, str | float]) -> str:
    return "\n".join(f"{name:12} {value}" for name, value in setting.items())


def case_lines(rows: Sequence[Row]) -> str:
    """Write one case: what it is, then a line for each provider with its time or the reason why there is none."""
    first = rows[0]
    loads = [row.load for row in rows if row.load is not None]
    lines = [f"\n  {first.label}  ({first.group}{f'; load {loads[0]:.1f}' if loads else ''})"]
    if first.kind == "memory":
        lines += [
            f"    {row.provider:22} {size(row.peak_bytes):>10}  {row.problem or ratio_of(row, rows)}" for row in rows
        ]
        return "\n".join(lines)
    lines.append(
        f"    {'provider':22} {'ms':>9}  {'over ours (quartiles)':23} {'of bound':>8} {'kept':>9} {'peak':>9}  "
        f"{'error out / grad':19} timed by"
    )
    lines += [time_line(row) for row in rows]
    return "\n".join(lines)


def time_line(row: Row) -> str:
    if row.milliseconds is None:
        return f"    {row.provider:22} {'not timed':>9}  {row.problem}"
    ratio = "" if row.ratio is None else f"x{row.ratio:.2f} ({row.ratio_low:.2f} to {row.ratio_high:.2f})"
    fraction = "" if row.fraction is None else f"{100 * row.fraction:.1f} %"
    errors = " / ".join(f"{error:.1e}" for error in (row.output_error, row.gradient_error) if error is not None)
    return (
        f"    {row.provider:22} {row.milliseconds:9.3f}  {ratio:23} {fraction:>8} {size(row.saved_bytes):>9} "
        f"{size(row.peak_bytes):>9}  {errors:19} {row.method}"
    )


def size(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def ratio_of(row: Row, rows: Sequence[Row]) -> str:
    """Write peak memory over that of ours, the first of our backends that has one."""
    ours = next((one.peak_bytes for one in rows if one.provider.startswith("gcp_kernels") and one.peak_bytes), None)
    return f"x{row.peak_bytes / ours:.2f}" if ours and row.peak_bytes else ""


def legend(names: Sequence[str]) -> str:
    """Describe the providers."""
    return "\n".join(f"  {name:22} {SUMMARIES[name]}" for name in names)
