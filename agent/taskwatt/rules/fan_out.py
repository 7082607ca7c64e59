"""Claim: so many tasks were started at once that the loop needs long to serve each of them a single time.

An iteration runs all that is ready before it looks at sockets and timers again: 50,000 tasks that were gathered make
one of 4.7 s, in which nothing else is answered, although no single step is long. No CPU is wasted by it; time is.
"""

from __future__ import annotations

from taskwatt.observations import READY_BUCKETS
from taskwatt.rules.finding import SETTLED_IN_S, Evidence, Finding, clear, conclude, not_enough_data
from taskwatt.rules.loop_share import NO_LOOP, tasks, where
from taskwatt.rules.statistics import host_confidence
from taskwatt.windows import CoroutineWindow, LoopWindow, Window

CAUSE = "fan_out"
WINDOW_S = 10.0

READY = 1_000
"""Handles in one iteration; a bound of READY_BUCKETS. Measured: 50,000 for a gather of as many, 200 for a task group of
200, 100 where a semaphore lets 100 in, 20 for a saturated server with 20 connections."""

FLOODED_S = 0.02
"""Seconds of each second in iterations with more than READY handles. 5,000 tasks that start once need 0.05 s in all,
0.005 of a window of 10 s: nobody notices."""

STARTED = 1_000
"""Tasks of one type in the window: what is ready without being started are connections or timers, and no fan-out."""

NEXT_STEP = (
    "Start fewer at once: let a fixed number of workers take from one queue, or hold an asyncio.Semaphore before a "
    "task is created, not inside of it. For a long list, go through it in batches."
)


def check(window: Window) -> tuple[Finding, ...]:
    if not window.loops:
        return (clear(CAUSE, window, NO_LOOP),)
    if window.seconds < SETTLED_IN_S:
        summary = f"Only {window.seconds:.1f} s were covered; a verdict needs {SETTLED_IN_S:g} s."
        return (not_enough_data(CAUSE, window.process_class, summary),)
    crowd = _crowd(window)
    found = [_finding(loop, crowd, window) for loop in window.loops if crowd is not None and is_flooded(loop, window)]
    # One crowd, one finding: the loop that it floods most.
    worst = sorted(found, key=lambda finding: -finding.evidence[1].value)[:1]
    return conclude(worst, _quiet(window))


def is_flooded(loop: LoopWindow, window: Window) -> bool:
    """Does a crowd of tasks keep this loop? loop_blocked asks too, so as not to report one cause twice."""
    return _crowd(window) is not None and _flooded(loop) / window.seconds >= FLOODED_S


def _flooded(loop: LoopWindow) -> float:
    """Seconds in iterations with more than READY handles."""
    return sum(loop.ready[READY_BUCKETS.index(READY) + 1 :])


def _crowd(window: Window) -> CoroutineWindow | None:
    started = max(tasks(window), key=lambda one: one.started, default=None)
    return started if started is not None and started.started >= STARTED else None


def _finding(loop: LoopWindow, crowd: CoroutineWindow, window: Window) -> Finding:
    flooded, lag, n = _flooded(loop) / window.seconds, loop.delay_quantile(0.99), int(window.seconds)
    return Finding(
        cause=CAUSE,
        verdict="found",
        process_class=window.process_class,
        task=crowd.name,
        confidence=host_confidence(n),
        summary=(
            f"{crowd.name} is started too often at once: {crowd.started:,} of them in {window.seconds:.0f} s made up "
            f"to {loop.ready_max:,} handles ready in one iteration (threshold {READY:,}), and the loop spends "
            f"{flooded:.0%} of its time in such iterations (threshold {FLOODED_S:.0%}); what arrives meanwhile waits "
            f"up to {lag:.2g} s{where(crowd)}."
        ),
        evidence=(
            Evidence("ready_max", loop.ready_max, READY, loop.iterations),
            Evidence("flooded_share", flooded, FLOODED_S, n),
            Evidence("started", crowd.started, STARTED, crowd.started),
            Evidence("lag_p99_s", lag, 0.1, n),
        ),
        ruled_out=(
            f"A busy server: its tasks begin one after another; here {loop.ready_max:,} were ready at once.",
            f"A blocking call: the longest step of {crowd.name} took {crowd.longest_s:.2g} s.",
        ),
        next_step=NEXT_STEP,
        code=crowd.resumed_at or crowd.code,
    )


def _quiet(window: Window) -> Finding:
    loop = max(window.loops, key=lambda one: (_flooded(one), one.ready_max))
    share, n = _flooded(loop) / window.seconds, int(window.seconds)
    evidence = (
        Evidence("ready_max", loop.ready_max, READY, loop.iterations),
        Evidence("flooded_share", share, FLOODED_S, n),
    )
    summary = (
        f"At most {loop.ready_max:,} handles were ready in one iteration, and {share:.1%} of the time went into those "
        f"with more than {READY:,} (threshold {FLOODED_S:.0%})."
    )
    return clear(CAUSE, window, summary, evidence)
