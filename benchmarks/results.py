"""Rows of the report: each a ratio or a difference with its interval, and the budget it is held against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.statistics import Interval

ENOUGH = 3
"""Samples below which an interval is none."""


@dataclass(frozen=True, slots=True)
class Row:
    part: str
    what: str
    value: Interval
    unit: str
    """`x` for a ratio; otherwise the unit of a difference."""
    n: int
    budget: float | None = None

    @property
    def verdict(self) -> str:
        if self.budget is None:
            return ""
        return self.value.against(self.budget) if self.n >= ENOUGH else "undecided"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """A row without a figure."""

    part: str
    what: str
    reason: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def table(rows: Iterable[Row | NotMeasured]) -> str:
    cells = [("part", "what", "median", "95 % interval", "n", "budget", "")]
    for row in rows:
        if isinstance(row, NotMeasured):
            cells.append((row.part, row.what, "", "", "", "", f"not measured here: {row.reason}"))
            continue
        value = row.value
        budget = "" if row.budget is None else f"<= {row.budget:g} {row.unit}"
        middle = f"{_figure(value.middle)} {row.unit}"
        span = f"{_figure(value.low)} .. {_figure(value.high)}"
        cells.append((row.part, row.what, middle, span, str(row.n), budget, row.verdict))
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    right = (2, 3, 4, 5)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def _figure(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"
