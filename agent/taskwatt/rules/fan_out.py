"""Claim: so many tasks were started at once that the loop needs long to serve each of them a single time.

An iteration runs all that is ready before it looks at sockets and timers again: 50,000 tasks that were gathered make
one of 4.7 s, in which nothing else is answered, although no single step is long. No CPU is wasted by it; time is.
"""

from __future__ import annotations

from taskwatt.observations import READY_BUCKETS
from taskwatt.rules.finding import SETTLED_IN_S, Evidence, Finding, clear, conclude, not_enough_data
from taskwatt.rules.loop_share import NO_LOOP, ratio, short_steps_s, tasks, where
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

CROWD_STEP_S = 0.1 / READY
"""A mean step of a crowd, where nobody counts what is ready (uvloop): as many as READY fit into 0.1 s, from which on
such a loop tells that it was late. Measured: 7 us in a gather of 30,000."""

SURELY = 0.5
"""Of that late time, which the crowd must have filled at the least. Seen on a busy host, in four runs of a
gather of 30,000 every 1.5 s: 0.85 and more; 0 beside a protocol callback that blocks."""

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
    worst = sorted(found, key=_flooded_share, reverse=True)[:1]
    return conclude(worst, _quiet(window) if all(_judged(loop, window) for loop in window.loops) else _unknown(window))


def is_flooded(loop: LoopWindow, window: Window) -> bool:
    """Does a crowd of tasks keep this loop? loop_blocked asks too, so as not to report one cause twice."""
    return _crowd(window) is not None and _flooded(loop, window) / window.seconds >= FLOODED_S


def _flooded(loop: LoopWindow, window: Window) -> float:
    """Seconds in iterations with more than READY handles; where nobody counts these, what is sure of them."""
    if loop.ready_known:
        return sum(loop.ready[READY_BUCKETS.index(READY) + 1 :])
    crowd = _crowd(window)
    if crowd is None or crowd.wall_s > CROWD_STEP_S * crowd.steps:
        return 0.0
    late = sum(one.late_s for one in window.loops)
    filled = ratio(short_steps_s(window, crowd), late)
    return loop.late_s * filled if filled >= SURELY else 0.0


def _judged(loop: LoopWindow, window: Window) -> bool:
    """Is it certain that no crowd floods it?"""
    return loop.ready_known or _crowd(window) is None or loop.busy_s / window.seconds < FLOODED_S


def _unknown(window: Window) -> Finding:
    loop = next(loop for loop in window.loops if not loop.ready_known)
    crowd = max(tasks(window), key=lambda one: one.started)
    summary = (
        f"How many handles are ready is not seen of a loop of {loop.kind}, and its delay does not tell: "
        f"{crowd.started:,} tasks of {crowd.name} were started in {window.seconds:.0f} s (threshold {STARTED:,}), at "
        f"once or one after another."
    )
    return not_enough_data(CAUSE, window.process_class, summary)


def _flooded_share(finding: Finding) -> float:
    return next(one.value for one in finding.evidence if one.metric == "flooded_share")


def _crowd(window: Window) -> CoroutineWindow | None:
    started = max(tasks(window), key=lambda one: one.started, default=None)
    return started if started is not None and started.started >= STARTED else None


def _finding(loop: LoopWindow, crowd: CoroutineWindow, window: Window) -> Finding:
    flooded, lag, n = _flooded(loop, window) / window.seconds, loop.delay_quantile(0.99), int(window.seconds)
    if loop.ready_known:
        seen = (
            f"made up to {loop.ready_max:,} handles ready in one iteration (threshold {READY:,}), and the loop spends "
            f"{flooded:.0%} of its time in such iterations (threshold {FLOODED_S:.0%})"
        )
        counted: tuple[Evidence, ...] = (Evidence("ready_max", loop.ready_max, READY, loop.iterations),)
        busy_server = f"here {loop.ready_max:,} were ready at once"
    else:
        step_us = 1e6 * ratio(crowd.wall_s, crowd.steps)
        seen = (
            f"kept the loop for 0.1 s and longer at a stretch in steps of {step_us:.0f} us, in {flooded:.0%} of its "
            f"time at the least (threshold {FLOODED_S:.0%})"
        )
        counted, busy_server = (), f"here the loop was kept for {lag:.2g} s by steps of {step_us:.0f} us"
    return Finding(
        cause=CAUSE,
        verdict="found",
        process_class=window.process_class,
        task=crowd.name,
        confidence=host_confidence(n),
        summary=(
            f"{crowd.name} is started too often at once: {crowd.started:,} of them in {window.seconds:.0f} s {seen}; "
            f"what arrives meanwhile waits up to {lag:.2g} s{where(crowd)}."
        ),
        evidence=(
            *counted,
            Evidence("flooded_share", flooded, FLOODED_S, n),
            Evidence("started", crowd.started, STARTED, crowd.started),
            Evidence("lag_p99_s", lag, 0.1, n),
        ),
        ruled_out=(
            f"A busy server: its tasks begin one after another; {busy_server}.",
            f"A blocking call: the longest step of {crowd.name} took {crowd.longest_s:.2g} s.",
        ),
        next_step=NEXT_STEP,
        code=crowd.resumed_at or crowd.code,
    )


def _most_started(window: Window) -> int:
    return max((one.started for one in tasks(window)), default=0)


def _few(started: int) -> str:
    were = "task of one type was" if started == 1 else "tasks of one type were"
    return f"at most {started:,} {were} started (threshold {STARTED:,})"


def _quiet(window: Window) -> Finding:
    n = int(window.seconds)
    known = [one for one in window.loops if one.ready_known]
    if not known:
        started, busy = _most_started(window), max(one.busy_s for one in window.loops) / window.seconds
        idle = f"the loop was busy {busy:.1%} of the time (threshold {FLOODED_S:.0%})"
        summary = f"No crowd: {_few(started) if started < STARTED else idle}."
        return clear(CAUSE, window, summary, (Evidence("started", started, STARTED, started),))
    loop = max(known, key=lambda one: (_flooded(one, window), one.ready_max))
    share = _flooded(loop, window) / window.seconds
    evidence = (
        Evidence("ready_max", loop.ready_max, READY, loop.iterations),
        Evidence("flooded_share", share, FLOODED_S, n),
    )
    summary = (
        f"At most {loop.ready_max:,} handles were ready in one iteration, and {share:.1%} of the time went into those "
        f"with more than {READY:,} (threshold {FLOODED_S:.0%})"
    )
    if share >= FLOODED_S:
        few = _few(_most_started(window))
        return clear(CAUSE, window, f"{summary}; but {few}: connections or timers, and no crowd.", evidence)
    summary += "."
    return clear(CAUSE, window, summary, evidence)
