"""Claim: every completion costs as much as there is still pending, because all of it is gone through each time.

`asyncio.wait(pending, return_when=FIRST_COMPLETED)` in a loop is the usual one (`asyncio_wait`): each call adds a
callback to all that it is given and takes it away again. A scan written by hand is told by its steps, which cost more
the more tasks are alive (`growing_cost`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from taskwatt.rules.finding import NOTICEABLE_CORES, SETTLED_IN_S, Evidence, Finding, clear, conclude, not_enough_data
from taskwatt.rules.loop_share import MOSTLY, NO_LOOP, mostly, ratio, seen, tasks, where
from taskwatt.rules.statistics import confidence, wilson_lower
from taskwatt.windows import CoroutineWindow, Window

CAUSE = "rescan"
WINDOW_S = 10.0

PENDING = 100
"""Waited for at once. Below, a call costs less than the 50 us from which a step's CPU is read."""

EACH_S = 0.5e-6
"""What a call costs for each that it is given, at the most: 0.44 us measured, with 5,000 and with few left. What a
step uses beyond that is work with the results, and no waste."""

SLOPE = 0.8
"""In the logarithms: 1 when a step goes through all, 0 when its cost does not depend on them (measured: 0.00 to 0.10
for handlers, whose cost has other reasons)."""

FIT = 0.8
"""R2: with less, something else decides what a step costs."""

STEPS = 30
"""Fewer do not carry a slope."""

SPREAD = 4.0
"""Most and least alive, as a ratio: a slope over less is noise."""

NEXT_STEPS: Mapping[str, str] = {
    "asyncio_wait": (
        "Use asyncio.as_completed, a queue that finished tasks put themselves into (task.add_done_callback), or a "
        "TaskGroup: each completion then costs the same however many are pending. For a fixed number at once, let so "
        "many workers take from one queue."
    ),
    "growing_cost": (
        "Do not look at all tasks to find those that have ended: let each tell by task.add_done_callback or a queue."
    ),
}


class Growth(NamedTuple):
    slope: float
    r2: float
    n: int
    spread: float


def check(window: Window) -> tuple[Finding, ...]:
    running = tasks(window)
    if not running:
        return (clear(CAUSE, window, NO_LOOP),)
    if window.seconds < SETTLED_IN_S:
        summary = f"Only {window.seconds:.1f} s were covered; a verdict needs {SETTLED_IN_S:g} s."
        return (not_enough_data(CAUSE, window.process_class, summary),)
    found = [_asyncio_wait(one, window) for one in scanning(window)]
    found += [_growing(one, growth(one.costs), window) for one in growing(window)]
    return conclude(found, _quiet(running, window))


def claimed(window: Window) -> frozenset[str]:
    """The types that this rule answers for; loop_blocked asks, so as not to report one cause twice."""
    return frozenset(one.name for one in (*scanning(window), *growing(window)))


def scanning(window: Window) -> Sequence[CoroutineWindow]:
    return [
        one
        for one in tasks(window)
        if mostly(one.scanning, one.looks)
        and _pending(one) >= PENDING
        and _scanned_s(one) / window.seconds >= NOTICEABLE_CORES
    ]


def growing(window: Window) -> Sequence[CoroutineWindow]:
    by_wait = {one.name for one in scanning(window)}
    return [
        one
        for one in tasks(window)
        if one.name not in by_wait
        and max((alive for alive, _ in one.costs), default=0) >= PENDING
        and one.cpu_s / window.seconds >= NOTICEABLE_CORES
        and _grows(growth(one.costs))
    ]


def growth(costs: Sequence[tuple[int, float]]) -> Growth:
    """How the cost of a step follows the number of tasks alive before it: a least-squares line in the logarithms."""
    points = [(math.log(alive), math.log(cost)) for alive, cost in costs if alive > 0 and cost > 0]
    if len(points) < 2:
        return Growth(0.0, 0.0, len(points), 1.0)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    mean_x, mean_y = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    sxx = math.fsum((x - mean_x) ** 2 for x in xs)
    syy = math.fsum((y - mean_y) ** 2 for y in ys)
    sxy = math.fsum((x - mean_x) * (y - mean_y) for x, y in points)
    if not sxx or not syy:
        return Growth(0.0, 0.0, len(points), math.exp(max(xs) - min(xs)))
    return Growth(sxy / sxx, sxy * sxy / (sxx * syy), len(points), math.exp(max(xs) - min(xs)))


def _grows(line: Growth) -> bool:
    return line.n >= STEPS and line.spread >= SPREAD and line.slope >= SLOPE and line.r2 >= FIT


def _pending(one: CoroutineWindow) -> float:
    """How many it waited for at once, on average."""
    return ratio(one.scanned, one.scanning)


def _scanned_s(one: CoroutineWindow) -> float:
    return min(one.cpu_s, one.steps * _pending(one) * EACH_S)


def _asyncio_wait(one: CoroutineWindow, window: Window) -> Finding:
    wasted, pending = _scanned_s(one) / window.seconds, _pending(one)
    return Finding(
        cause=CAUSE,
        subtype="asyncio_wait",
        verdict="found",
        process_class=window.process_class,
        task=one.name,
        wasted_cores=wasted,
        confidence=confidence(one.looks, window),
        summary=(
            f"{one.name} goes through {pending:,.0f} pending tasks (threshold {PENDING}) for each that completes: "
            f"{one.scanning:,} of {one.looks:,} looks met it in asyncio.wait, and a step takes "
            f"{1e3 * one.cpu_s / one.steps:.1f} ms, burning {wasted:.2f} of {window.host.effective_cpus:g} CPUs "
            f"(threshold {NOTICEABLE_CORES:g}){where(one)}."
        ),
        evidence=(
            Evidence("scanning_share", wilson_lower(one.scanning, one.looks), MOSTLY, one.looks),
            Evidence("pending", pending, PENDING, one.scanning),
            Evidence("wasted_cores", wasted, NOTICEABLE_CORES, one.steps),
        ),
        ruled_out=(
            f"Work with the results: going through all explains {ratio(_scanned_s(one), one.cpu_s):.0%} of its CPU.",
        ),
        next_step=NEXT_STEPS["asyncio_wait"],
        code=seen(one),
    )


def _growing(one: CoroutineWindow, line: Growth, window: Window) -> Finding:
    wasted = one.cpu_s / window.seconds
    most = max(alive for alive, _ in one.costs)
    return Finding(
        cause=CAUSE,
        subtype="growing_cost",
        verdict="found",
        process_class=window.process_class,
        task=one.name,
        wasted_cores=wasted,
        confidence=confidence(line.n, window),
        summary=(
            f"A step of {one.name} costs the more, the more tasks are alive: over {line.n:,} steps and up to {most:,} "
            f"tasks its cost grows by the power of {line.slope:.2f} (threshold {SLOPE:g}, R2 {line.r2:.2f}), burning "
            f"{wasted:.2f} of {window.host.effective_cpus:g} CPUs (threshold {NOTICEABLE_CORES:g}){where(one)}."
        ),
        evidence=(
            Evidence("cost_slope", line.slope, SLOPE, line.n),
            Evidence("cost_fit", line.r2, FIT, line.n),
            Evidence("pending", most, PENDING, line.n),
            Evidence("wasted_cores", wasted, NOTICEABLE_CORES, one.steps),
        ),
        ruled_out=("Steps that are merely long: their cost would not follow the number of tasks.",),
        next_step=NEXT_STEPS["growing_cost"],
        code=seen(one),
    )


def _quiet(running: tuple[CoroutineWindow, ...], window: Window) -> Finding:
    most = max(running, key=lambda one: (_scanned_s(one), one.steps))
    used = _scanned_s(most) / window.seconds
    evidence = (
        Evidence("pending", _pending(most), PENDING, most.scanning),
        Evidence("wasted_cores", used, NOTICEABLE_CORES, most.steps),
    )
    if not most.scanning:
        return clear(CAUSE, window, "No coroutine was met in asyncio.wait, and no cost grows with the tasks alive.")
    summary = (
        f"{most.name} waits for {_pending(most):,.0f} at once (threshold {PENDING}), and going through them takes "
        f"{used:.3f} CPUs (threshold {NOTICEABLE_CORES:g}): "
    )
    if _pending(most) < PENDING or used < NOTICEABLE_CORES:
        summary += "not worth a word."
    else:
        share = ratio(most.scanning, most.looks)
        few = f"but only {share:.0%} of the looks met it there (threshold {MOSTLY:.0%})."
        summary += few if share < MOSTLY else f"but {most.looks:,} looks are too few to be sure."
    return clear(CAUSE, window, summary, evidence)
