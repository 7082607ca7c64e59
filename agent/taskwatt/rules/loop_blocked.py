"""Claim: a synchronous call, or computing, holds the event loop, and everything else waits for it.

What counts is what an arrival meets: the delay that a random moment in the window would have had, weighted by time. A
loop that is busy and turns quickly has none; one that sleeps in `time.sleep` has it at 0 % CPU. No CPU is wasted by it;
time is.
"""

from __future__ import annotations

from collections.abc import Mapping

from taskwatt.observations import DELAY_BUCKETS, StallCause
from taskwatt.rules import fan_out, gil_contention, oversubscription, rescan, starved
from taskwatt.rules.finding import SETTLED_IN_S, Evidence, Finding, clear, conclude, not_enough_data
from taskwatt.rules.loop_share import NO_LOOP, ratio, short_steps_s
from taskwatt.rules.statistics import host_confidence
from taskwatt.windows import CoroutineWindow, LoopWindow, Window

CAUSE = "loop_blocked"
WINDOW_S = 10.0

LAG_S = 0.1
"""What one arrival in a hundred waits. 100 ms is where people notice. Measured: a saturated server 1 to 5 ms, a loop
that calls time.sleep(0.25) every 0.3 s 247 ms."""

STALLS = 3
"""Steps above the stall threshold: an import or one large file at the start blocks once, and that is no state."""

OFTEN = 0.95
"""Where fewer were counted, five arrivals in a hundred have to wait so long: what blocks for a second at a time."""

MAINLY = 0.5
"""Of the time that it was busy. Measured: time.sleep uses 0 % of it as CPU and waits 0 %, own computing uses 64 %,
starved by others it waits 81 to 87 %."""

CAUSES: Mapping[StallCause, tuple[str, str]] = {
    "blocking": (
        "in a call that waits",
        "Await it: use the library's asyncio variant, or move the call off the loop (await asyncio.to_thread(...)).",
    ),
    "own_cpu": (
        "by its own computing",
        "Take it off the loop: a ProcessPoolExecutor or a task queue, or do it in pieces with a yield between them.",
    ),
    "gil": (
        "by other threads that hold the interpreter",
        "Move what those threads compute into another process, or into code that lets go of the interpreter.",
    ),
    "starved": (
        "because the host had no CPU for it",
        "Give it a CPU: see what `starved` or `oversubscription` says of this machine.",
    ),
    "unknown": (
        "for a reason that was not seen",
        "Look at the spans asyncio.stall: each has the stack that was seen while the loop was held.",
    ),
}

MANY_STEPS = (
    "Serve less at once: limit the connections and tasks of this loop, or run more processes. Each step is short; "
    "there are too many of them ahead of an arrival."
)


def check(window: Window) -> tuple[Finding, ...]:
    if not window.loops:
        return (clear(CAUSE, window, NO_LOOP),)
    if window.seconds < SETTLED_IN_S:
        summary = f"Only {window.seconds:.1f} s were covered; a verdict needs {SETTLED_IN_S:g} s."
        return (not_enough_data(CAUSE, window.process_class, summary),)
    blocked = [loop for loop in window.loops if _is_blocked(loop)]
    explained = [(loop, other) for loop in blocked if (other := _explained(loop, window))]
    if blocked and len(explained) == len(blocked):
        loop, other = explained[0]
        summary = f"An arrival waits up to {loop.delay_quantile(0.99):.2g} s, which has another explanation: {other}."
        return (clear(CAUSE, window, summary, (_lag(loop, window),)),)
    others = {loop.name for loop, _ in explained}
    found = [_finding(loop, window) for loop in blocked if loop.name not in others]
    return conclude(found, _quiet(window))


def _is_blocked(loop: LoopWindow) -> bool:
    if loop.delay_quantile(0.99) < LAG_S:
        return False
    return loop.slow_steps >= STALLS or loop.delay_quantile(OFTEN) >= LAG_S


def _explained(loop: LoopWindow, window: Window) -> str:
    """The cause that says more of the same delay, if there is one."""
    if fan_out.is_flooded(loop, window):
        return fan_out.CAUSE
    if _holding_type(loop, window) in rescan.claimed(window):
        return rescan.CAUSE
    if _cause(loop) == "gil" and gil_contention.is_contended(window):
        return gil_contention.CAUSE
    computes = loop.worst is not None and loop.worst.cpu_s >= LAG_S
    if _cause(loop) == "starved" and not computes:  # what computes for so long holds the loop on an idle host as well
        host = (*starved.check(window), *oversubscription.check(window))
        return next((finding.cause for finding in host if finding.found), "")
    return ""


def _finding(loop: LoopWindow, window: Window) -> Finding:
    cause, lag = _cause(loop), loop.delay_quantile(0.99)
    held = min(1.0, max(loop.slow_s / window.seconds, _late_share(loop)))
    many_steps = _many_steps(loop, window)
    why, next_step = ("by many short steps", MANY_STEPS) if many_steps else CAUSES[cause]
    code = loop.worst.code if loop.worst is not None and not many_steps else None
    task = _holder(loop, window)
    at = f", at {code.function} ({code.file}:{code.line})" if code is not None else ""
    longest = f", {loop.worst.duration_s:.2g} s at the longest" if loop.worst is not None else ""
    times = f", {'once' if loop.slow_steps == 1 else f'{loop.slow_steps:,} times'}{longest}" if loop.slow_steps else ""
    who = f"{task} holds" if task and not many_steps else "Something holds"
    return Finding(
        cause=CAUSE,
        subtype="many_steps" if many_steps else cause,
        verdict="found",
        process_class=window.process_class,
        task=task,
        confidence=host_confidence(int(window.seconds)),
        summary=(
            f"{who} the event loop {why}: one arrival in a hundred waits for {lag:.2g} s and longer (threshold "
            f"{LAG_S:g} s), and {held:.0%} of the time it is held{times}{at}."
        ),
        evidence=(
            _lag(loop, window),
            _often(loop, window),
            Evidence("utilization", loop.utilization, 1.0, loop.iterations),
            Evidence("loop_cpus", loop.cpu_s / window.seconds, 1.0, int(window.seconds)),
        ),
        ruled_out=_ruled_out(loop, window, cause),
        next_step=next_step,
        code=code,
    )


def _ruled_out(loop: LoopWindow, window: Window, cause: StallCause) -> tuple[str, ...]:
    cpu, said = loop.cpu_s / window.seconds, list[str]()
    if cause == "blocking":
        said.append(f"Its own computing: the loop's thread used {cpu:.2f} CPUs.")
    if cause in ("blocking", "own_cpu"):
        wait = loop.run_delay_s / window.seconds
        if wait == wait:  # NaN where the kernel does not tell
            said.append(f"A lack of CPU: it waited {wait:.2f} s of each second for one.")
    if loop.ready_known:
        said.append(f"Too many tasks at once: {loop.ready_max:,} handles were ready (threshold {fan_out.READY:,}).")
    return tuple(said)


def _lag(loop: LoopWindow, window: Window) -> Evidence:
    return Evidence("lag_p99_s", loop.delay_quantile(0.99), LAG_S, int(window.seconds))


def _often(loop: LoopWindow, window: Window) -> Evidence:
    """That it is a state: by the number of steps, or where there were few, by how many arrivals meet them."""
    if loop.slow_steps >= STALLS:
        return Evidence("stalls", loop.slow_steps, STALLS, loop.slow_steps)
    return Evidence("lag_p95_s", loop.delay_quantile(OFTEN), LAG_S, int(window.seconds))


def _cause(loop: LoopWindow) -> StallCause:
    """Of most of the time of which records tell, unless what its thread did while it was busy says otherwise; without
    a record that tells it, what the thread did."""
    told, number = _told(loop)
    did = _did(loop)
    spent = {"own_cpu": loop.cpu_s, "starved": loop.run_delay_s}
    if told in spent and number < STALLS and sum(spent.values()) >= MAINLY * loop.busy_s:
        # One step that met a neighbour says little of the others.
        return "starved" if loop.run_delay_s > loop.cpu_s else "own_cpu"
    if "unknown" in (told, did):
        return did if told == "unknown" else told
    rest_s = loop.busy_s - loop.cpu_s - loop.run_delay_s
    return did if spent.get(told, rest_s) < MAINLY * loop.slow_s * _share(loop, told) else told


def _told(loop: LoopWindow) -> tuple[StallCause, int]:
    """What records say held it longest, and how many of them."""
    if not loop.stalls:
        return "unknown", 0
    told = max(loop.stalls, key=lambda cause: loop.stalls[cause][1])
    return told, loop.stalls[told][0]


def _share(loop: LoopWindow, told: StallCause) -> float:
    """Of the time of which records tell: what a sample is good for."""
    return ratio(loop.stalls[told][1], sum(seconds for _, seconds in loop.stalls.values()))


def _did(loop: LoopWindow) -> StallCause:
    """What its thread did for most of its busy time, as far as that names a cause."""
    if not loop.busy_s:
        return "unknown"
    if loop.run_delay_s >= MAINLY * loop.busy_s:
        return "starved"
    return "own_cpu" if loop.cpu_s >= MAINLY * loop.busy_s else "unknown"


def _many_steps(loop: LoopWindow, window: Window) -> bool:
    """Is it held although no step is long? Where a late timer tells of it, they must surely fill half of that time."""
    if not loop.slow_steps:
        return _longest(window) < LAG_S
    late_s = sum(one.late_s for one in window.loops)
    filled = short_steps_s(window) >= MAINLY * late_s
    return _mostly_late(loop) and filled and _cause(loop) in ("own_cpu", "unknown")


def _mostly_late(loop: LoopWindow) -> bool:
    """Is it unknown of most of the time that it was held, which step held it? (uvloop)"""
    return loop.late_s > MAINLY * loop.slow_s


def _late_share(loop: LoopWindow) -> float:
    """Of the time, in which an arrival would have waited longer than LAG_S."""
    return ratio(sum(loop.delay[DELAY_BUCKETS.index(LAG_S) + 1 :]), sum(loop.delay))


def _longest(window: Window) -> float:
    return max((one.longest_s for one in window.coroutines), default=0.0)


def _holder(loop: LoopWindow, window: Window) -> str:
    """As people know it: the row of the longest stall, or the type."""
    return loop.worst.row if loop.worst is not None and loop.worst.row else _holding_type(loop, window)


def _holding_type(loop: LoopWindow, window: Window) -> str:
    """Of the longest stall; without one that names it, the type that was longest in its long steps, if it was one."""
    if loop.worst is not None and loop.worst.task:
        return loop.worst.task
    if _mostly_late(loop):
        return ""
    long = [one for one in window.coroutines if one.longest_s >= LAG_S]
    heaviest: CoroutineWindow | None = max(long, key=lambda one: one.wall_s, default=None)
    return heaviest.name if heaviest is not None else ""


def _quiet(window: Window) -> Finding:
    worst = max(window.loops, key=lambda loop: loop.delay_quantile(0.99))
    lag, number = worst.delay_quantile(0.99), worst.slow_steps
    often = f", but only {number} step{'' if number == 1 else 's'} held it (threshold {STALLS})" if lag >= LAG_S else ""
    summary = (
        f"Of a hundred arrivals, 99 wait {lag * 1e3:.1f} ms at the most (threshold {LAG_S * 1e3:g} ms){often}; the "
        f"loop is busy {worst.utilization:.0%} of the time."
    )
    return clear(CAUSE, window, summary, (_lag(worst, window),))
