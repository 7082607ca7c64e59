"""What the application itself noted of its attempts: the independent count.

A line per attempt, appended at its end: wall-clock nanoseconds, task name, its argument (which arrival it was), retries
so far, how it ended (ok, retry, failed).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.faults.case import Arrival


class Note(NamedTuple):
    at_ns: int
    task: str
    number: int
    retries: int
    end: str


@dataclass(frozen=True)
class Notes:
    lines: Sequence[Note]

    @classmethod
    def read(cls, path: Path) -> Notes:
        """Empty when the application never ran a task."""
        text = path.read_text() if path.exists() else ""
        parts = (line.split(" ") for line in text.splitlines())
        return cls([Note(int(at), task, int(number), int(again), end) for at, task, number, again, end in parts])

    def served(self, arrivals: Iterable[Arrival]) -> list[int]:
        """When the first attempt of each arrival ended, oldest first. What a task publishes itself is no arrival."""
        offered = {(arrival.task, arrival.args[0]) for arrival in arrivals}
        first: dict[tuple[str, int], int] = {}
        for note in sorted(self.lines):
            if (key := (note.task, note.number)) in offered:
                first.setdefault(key, note.at_ns)
        return sorted(first.values())

    def amplification(self, task: str, from_ns: float, to_ns: float) -> float:
        """Attempts per new logical id."""
        mine = [note for note in self.lines if note.task == task and from_ns < note.at_ns <= to_ns]
        return len(mine) / max(1, sum(note.retries == 0 for note in mine))

    def retry_rate_exceeds(self, share: float, span_s: float = 10.0, least: int = 20) -> bool:
        """The plain rule that people alert on: in some `span_s`, more than `share` of the attempts were retried."""
        span, first, retried = span_s * 1e9, 0, 0
        ordered = sorted(self.lines)
        for last, note in enumerate(ordered):
            retried += note.end == "retry"
            while ordered[first].at_ns < note.at_ns - span:
                retried -= ordered[first].end == "retry"
                first += 1
            n = last - first + 1
            if n >= least and retried > share * n:
                return True
        return False
