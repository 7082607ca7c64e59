"""What a rule says: found, clear, or not enough data, always with its numbers against their thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from taskwatt.observations import CodeSite, ProcessClass
from taskwatt.windows import TaskWindow, Window

Verdict: TypeAlias = Literal["found", "clear", "not_enough_data"]

CONFIDENT = 0.6
"""Below this a finding is not reported: six observations under full coverage (see statistics.confidence)."""

NOTICEABLE_CORES = 0.02
"""Waste that is worth a person's time: 2 % of one core, where the lowest severity begins."""

SETTLED_IN_S = 5.0
"""A window that covers less has met start-up (imports, first connections) and little else."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One measured number, the threshold it was held against, and how many observations it rests on."""

    metric: str
    value: float
    threshold: float
    n: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a diagnosis. `task` is "" where the whole process class is meant."""

    cause: str
    verdict: Verdict
    process_class: ProcessClass
    summary: str
    """A complete sentence: the number, its threshold, the task."""
    subtype: str = ""
    task: str = ""
    wasted_cores: float = 0.0
    """CPUs that would be free without this cause; 0.0 for causes that make work wait instead of repeating it."""
    confidence: float = 0.0
    evidence: tuple[Evidence, ...] = ()
    ruled_out: tuple[str, ...] = ()
    """What it could have been and is not, each a sentence with its number."""
    next_step: str = ""
    code: CodeSite | None = None
    """Only ever a line that a stack sample saw."""

    @property
    def found(self) -> bool:
        return self.verdict == "found"


@dataclass(frozen=True, slots=True)
class Rule:
    """One cause and the function that looks for it."""

    cause: str
    window_s: float
    check: Callable[[Window], tuple[Finding, ...]]
    """One finding for each affected task, or exactly one line that is clear or not enough data."""


def clear(cause: str, window: Window, summary: str, evidence: tuple[Evidence, ...] = ()) -> Finding:
    return Finding(cause, "clear", window.process_class, summary, evidence=evidence)


def not_enough_data(cause: str, process_class: ProcessClass, summary: str) -> Finding:
    return Finding(cause, "not_enough_data", process_class, summary)


def conclude(candidates: Sequence[Finding], otherwise: Finding) -> tuple[Finding, ...]:
    """The candidates that may be believed, worst first; else one line saying what was doubtful; else `otherwise`."""
    sure = [candidate for candidate in candidates if candidate.confidence >= CONFIDENT]
    if sure:
        return tuple(sorted(sure, key=lambda finding: -finding.wasted_cores))
    if candidates:
        return (_doubtful(max(candidates, key=lambda finding: finding.confidence)),)
    return (otherwise,)


def seen_at(task: TaskWindow) -> str:
    """Where it burns, as the end of a sentence; why that is not known when it was looked for; else empty."""
    if task.code is not None:
        return f", most often in {task.code.function} ({task.code.file}:{task.code.line})"
    return f", at a line that is not known: {task.code_missing}" if task.code_missing else ""


def _doubtful(candidate: Finding) -> Finding:
    return replace(
        candidate,
        verdict="not_enough_data",
        wasted_cores=0.0,
        summary=f"Perhaps, with confidence {candidate.confidence:.2f} (threshold {CONFIDENT}): {candidate.summary}",
        next_step="",
    )
