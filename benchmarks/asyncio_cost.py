"""What watching an event loop costs: CPU per empty step, per echoed line, per request, against plain in one run.

All variants of one workload live at the same time and take turns in short windows, as in `stack`: a ratio compares
windows that lie next to each other, and many of them make a median. The whole process counts. What an agent's or a
peer's own threads use falls into one window or another: it is summed over all windows of a round and spread over them.
Processes are started anew every round.

A server is measured saturated (an iteration of its loop finds 32 requests) and with one request at a time, when the
loop falls asleep and wakes for each.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks.asyncio_fleet import ACCELERATED, CONNECTIONS, OURS, PYTHON, Subject, Used, reason_missing, subjects
from benchmarks.fleet import sink
from benchmarks.results import NotMeasured, Row
from benchmarks.statistics import interval

CYCLES = 15
LOOPS = ("asyncio", "uvloop")
WITHOUT_EFFECT = {("aiodebug", "uvloop"): "it hooks asyncio's own loops only"}


LONE = 2
"""Windows of lone requests are this much shorter: they take more wall time than CPU."""


@dataclass(frozen=True, slots=True)
class Work:
    """One workload: how many units make a window, and what each may cost by variant and loop."""

    name: str
    unit: str
    window: int
    python: float | None
    accelerated: dict[str, float] | None
    served: bool = True
    """Its units are requests."""


STEPS = Work("steps", "empty step", 30_000, 1.45, {"asyncio": 1.0, "uvloop": 1.15}, served=False)
ECHO = Work("echo", "echoed line", 1600, None, None)
WEB = (
    Work("aiohttp", "aiohttp hello world", 320, 1.06, {"asyncio": 1.01, "uvloop": 1.01}),
    Work("fastapi", "FastAPI hello world", 320, 1.06, {"asyncio": 1.01, "uvloop": 1.01}),
    Work("small", "request of about 200 us", 320, 1.03, {"asyncio": 1.015, "uvloop": 1.015}),
)


def measure(part: str, works: Sequence[Work], rounds: int, variants: Sequence[str]) -> list[Row | NotMeasured]:
    """A round of one workload on one loop takes about half a minute. The first variant is the base."""
    rows: list[Row | NotMeasured] = []
    with sink() as endpoint, tempfile.TemporaryDirectory(prefix="taskwatt-bench-") as temporary:
        for work in works:
            for loop in LOOPS:
                rows += _measure(part, work, loop, rounds, variants, endpoint, Path(temporary))
    return rows


def _measure(
    part: str, work: Work, loop: str, rounds: int, variants: Sequence[str], endpoint: str, folder: Path
) -> list[Row | NotMeasured]:
    reasons = {variant: WITHOUT_EFFECT.get((variant, loop)) or reason_missing(variant) for variant in variants}
    measured = [variant for variant in variants if not reasons[variant]]
    taken: dict[tuple[int, str], list[list[Used]]] = defaultdict(list)
    for number in range(rounds):
        turned = measured[number % len(measured) :] + measured[: number % len(measured)]
        with subjects(turned, work.name, loop, endpoint, folder) as started:
            for at_a_time in (1, CONNECTIONS) if work.served else (CONNECTIONS,):
                for variant, values in _round(work, started, at_a_time).items():
                    taken[at_a_time, variant].append(values)
    rows: list[Row | NotMeasured] = []
    for at_a_time in sorted({key[0] for key in taken}, reverse=True):
        title = f"{loop}, {'lone ' if at_a_time == 1 else ''}{work.unit}"
        base = taken[at_a_time, variants[0]]
        micro = [[sum(used) * 1e6 for used in group] for group in base]
        rows.append(Row(part, f"{title}: {variants[0]}, CPU", interval(micro), "us", rounds * CYCLES))
        for variant in measured[1:]:
            mine = taken[at_a_time, variant]
            ratios = _by_window(mine, base, lambda one, plain: sum(one) / sum(plain))
            what, budget = f"{title}: {variant} / {variants[0]}", _budget(work, loop, variant)
            rows.append(Row(part, what, interval(ratios), "x", rounds * CYCLES, budget))
            if variant in OURS:
                threads = [[group[0].threads * 1e6] for group in mine]
                rows.append(Row(part, "  of it in threads of its own", interval(threads), "us", rounds))
    missing = [variant for variant in variants if reasons[variant]]
    return rows + [NotMeasured(part, f"{loop}, {work.unit}: {variant}", reasons[variant]) for variant in missing]


def _by_window(
    mine: Sequence[Sequence[Used]], base: Sequence[Sequence[Used]], function: Callable[[Used, Used], float]
) -> list[list[float]]:
    """Of windows that lie next to each other."""
    return [[function(*pair) for pair in zip(*groups, strict=True)] for groups in zip(mine, base, strict=True)]


def _budget(work: Work, loop: str, variant: str) -> float | None:
    if variant == PYTHON:
        return work.python
    return work.accelerated[loop] if variant == ACCELERATED and work.accelerated is not None else None


def _round(work: Work, started: Sequence[Subject], at_a_time: int) -> dict[str, list[Used]]:
    """CPU seconds per unit of each variant, cycle by cycle."""
    units = work.window if at_a_time > 1 else work.window // LONE
    for subject in started:
        subject.do(2 * units, at_a_time)  # caches, specialised code
    cycles: list[list[Used]] = [[] for _ in started]
    for number in range(CYCLES):
        for place in range(len(started)):
            at = (place + number) % len(started)
            cycles[at].append(started[at].window(units, at_a_time))
    return {subject.variant: _per_unit(taken) for subject, taken in zip(started, cycles, strict=True)}


def _per_unit(windows: Sequence[Used]) -> list[Used]:
    threads = mean(window.threads for window in windows)
    return [Used(window.first, threads) for window in windows]
