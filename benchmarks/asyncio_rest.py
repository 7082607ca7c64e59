"""A process with an event loop at rest: the CPU it uses while it waits, and what it holds with 100,000 live tasks."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.asyncio_cost import LOOPS, WITHOUT_EFFECT
from benchmarks.asyncio_fleet import OURS, SDK, reason_missing, subjects
from benchmarks.fleet import sink
from benchmarks.results import NotMeasured, Row
from benchmarks.stack import SLICE_S
from benchmarks.statistics import interval

IDLE_BUDGET = 0.25
MEMORY_BUDGET_MB = 5.0
QUIET_S = 66.0
"""By then no window of the agent's holds work."""


def measure_idle(slices: int, variants: Sequence[str]) -> list[Row | NotMeasured]:
    """All variants wait at the same time: share of a core a process beyond the first variant."""
    rows: list[Row | NotMeasured] = []
    with sink() as endpoint, tempfile.TemporaryDirectory(prefix="taskwatt-bench-") as temporary:
        for loop in LOOPS:
            measured, missing = _measured("loop_idle", loop, variants)
            shares: dict[str, list[float]] = defaultdict(list)
            with subjects(measured, "idle", loop, endpoint, Path(temporary)) as started:
                time.sleep(QUIET_S)
                for _ in range(slices):
                    before, since = [sum(subject.used()) for subject in started], time.monotonic()
                    time.sleep(SLICE_S)
                    used = [sum(subject.used()) - was for subject, was in zip(started, before, strict=True)]
                    lasted = time.monotonic() - since
                    for subject, now in zip(started, used, strict=True):
                        shares[subject.variant].append((now - used[0]) / lasted * 100)
            rows += [
                Row(
                    "loop_idle",
                    f"{loop}: {variant} - {measured[0]}",
                    interval([[share] for share in shares[variant]]),
                    "% of a core",
                    slices,
                    IDLE_BUDGET if variant in OURS else None,
                )
                for variant in measured[1:]
            ] + missing
    return rows


def measure_memory(rounds: int, variants: Sequence[str]) -> list[Row | NotMeasured]:
    """Memory beyond a process that imported OpenTelemetry's SDK and has as many tasks."""
    measured, missing = _measured("loop_memory", "asyncio", (SDK, *variants))
    extra: dict[str, list[float]] = defaultdict(list)
    with sink() as endpoint, tempfile.TemporaryDirectory(prefix="taskwatt-bench-") as temporary:
        for _ in range(rounds):
            with subjects(measured, "tasks", "asyncio", endpoint, Path(temporary)) as started:
                held = [subject.memory() for subject in started]
                for subject, memory in zip(started, held, strict=True):
                    extra[subject.variant].append(memory - held[0])
    return [
        Row(
            "loop_memory",
            f"{variant} - (plain + SDK imported)",
            interval([[value] for value in extra[variant]]),
            "MB",
            rounds,
            MEMORY_BUDGET_MB if variant in OURS else None,
        )
        for variant in measured[1:]
    ] + missing


def _measured(part: str, loop: str, variants: Sequence[str]) -> tuple[list[str], list[Row | NotMeasured]]:
    reasons = {variant: WITHOUT_EFFECT.get((variant, loop)) or reason_missing(variant) for variant in variants}
    missing: list[Row | NotMeasured] = [
        NotMeasured(part, f"{loop}: {variant}", reason) for variant, reason in reasons.items() if reason
    ]
    return [variant for variant in variants if not reasons[variant]], missing
