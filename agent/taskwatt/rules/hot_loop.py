"""Claim: a coroutine or callback goes round as fast as it can and gets nowhere.

Three shapes: a coroutine that yields and is run again at once (`spin`), a client that tries to connect again the moment
it failed (`reconnect`), and the callback of a file descriptor that is at its end and stays readable for ever
(`end_of_file`). A busy server goes round as fast: each shape asks for evidence that nothing comes of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskwatt.rules.finding import NOTICEABLE_CORES, SETTLED_IN_S, Evidence, Finding, clear, conclude, not_enough_data
from taskwatt.rules.loop_share import MOSTLY, NO_LOOP, callers, cores, mostly, ratio, seen, tasks, where
from taskwatt.rules.statistics import confidence, wilson_lower
from taskwatt.windows import CoroutineWindow, Window

CAUSE = "hot_loop"
WINDOW_S = 10.0

SELF_WAKES = 0.5
"""Of the steps. Measured: 1.00 of a coroutine that waits by `sleep(0)`; 0.00 of servers, queues, timers."""

STEPS_PER_END = 1_000
"""A spin takes 176,000 steps a second and ends with none of them; a handler takes 2 to 200 from beginning to end."""

STEP_US = 100.0
"""A spin's step takes 2 us, with a look at a queue and 20 us of other work 24; honest work that yields between its
pieces 2,000. To turn costs a busy loop 4 us: who works for 100 us between two yields hardly pays for them."""

RUNS_PER_S = 2_000.0
"""Of one callback at its end: 161,000/s on an otherwise idle loop. A flooded UDP socket has 33,000/s and no end."""

NEXT_STEPS: Mapping[str, str] = {
    "spin": (
        "Wait for what it waits for: an asyncio.Event, a Queue, a Future, or a Condition, in place of sleep(0). If "
        "each of these steps does work, do more of it between two yields."
    ),
    "reconnect": (
        "Pause after a failed attempt, longer each time and with jitter (await asyncio.sleep(min(30, 2 ** attempt) * "
        "random.random())), and look at why the peer refuses."
    ),
    "end_of_file": "Call loop.remove_reader() and close the descriptor when a read returns nothing: b'' is its end.",
}


def check(window: Window) -> tuple[Finding, ...]:
    if not window.coroutines:
        return (clear(CAUSE, window, NO_LOOP),)
    if window.seconds < SETTLED_IN_S:
        summary = f"Only {window.seconds:.1f} s were covered; a verdict needs {SETTLED_IN_S:g} s."
        return (not_enough_data(CAUSE, window.process_class, summary),)
    found = [
        *(_spin(one, window) for one in spinning(window)),
        *(_reconnect(one, window) for one in reconnecting(window)),
        *(_end_of_file(one, window) for one in at_end(window)),
    ]
    return conclude(found, _quiet(window))


def claimed(window: Window) -> frozenset[str]:
    """The types that this rule answers for; polling asks, so as not to report one cause twice."""
    return frozenset(one.name for one in (*spinning(window), *reconnecting(window), *at_end(window)))


def spinning(window: Window) -> Sequence[CoroutineWindow]:
    return [
        one
        for one in tasks(window)
        if wilson_lower(one.self_wakes, one.steps) > SELF_WAKES
        and one.steps >= STEPS_PER_END * max(1, one.ended)
        and _step_us(one) <= STEP_US
        and cores(one, window) >= NOTICEABLE_CORES
    ]


def reconnecting(window: Window) -> Sequence[CoroutineWindow]:
    """An attempt that is a task of its own ends with each failure: only what ends well counts as an end here."""
    return callers(
        [
            one
            for one in tasks(window)
            if mostly(one.connecting, one.looks)
            and one.steps >= STEPS_PER_END * max(1, one.completed)
            and cores(one, window) >= NOTICEABLE_CORES
        ]
    )


def at_end(window: Window) -> Sequence[CoroutineWindow]:
    return [
        one
        for one in window.coroutines
        if one.kind == "io"
        and one.steps / window.seconds >= RUNS_PER_S
        and mostly(one.at_end, one.looks)
        and cores(one, window) >= NOTICEABLE_CORES
    ]


def _spin(one: CoroutineWindow, window: Window) -> Finding:
    return _finding(
        one,
        window,
        "spin",
        f"{one.name} spins: it yielded and was run again at once in {ratio(one.self_wakes, one.steps):.0%} of its "
        f"{one.steps / window.seconds:,.0f} steps a second (threshold {SELF_WAKES:.0%}), {_ends(one.steps, one.ended)}",
        (
            Evidence("self_wake_share", wilson_lower(one.self_wakes, one.steps), SELF_WAKES, one.steps),
            Evidence("steps_per_end", one.steps / max(1, one.ended), STEPS_PER_END, one.steps),
            Evidence("cpu_per_step_us", _step_us(one), STEP_US, one.steps),
        ),
        (f"Work in pieces: a step takes {_step_us(one):.0f} us (threshold {STEP_US:.0f} us).",),
        one.steps,
    )


def _reconnect(one: CoroutineWindow, window: Window) -> Finding:
    share = wilson_lower(one.connecting, one.looks)
    return _finding(
        one,
        window,
        "reconnect",
        f"{one.name} connects again and again without a pause: {one.connecting:,} of {one.looks:,} looks met it in an "
        f"attempt to connect ({ratio(one.connecting, one.looks):.0%}), at {one.steps / window.seconds:,.0f} steps a "
        f"second, {_ends(one.steps, one.completed)}",
        (
            Evidence("connecting_share", share, MOSTLY, one.looks),
            Evidence("steps_per_end", one.steps / max(1, one.completed), STEPS_PER_END, one.steps),
        ),
        (
            "A client that works: it would be met while it waits for an answer as well.",
            f"A pause: {ratio(one.sleeping, one.looks):.0%} of the looks met it in one.",
        ),
        one.looks,
    )


def _end_of_file(one: CoroutineWindow, window: Window) -> Finding:
    rate = one.steps / window.seconds
    return _finding(
        one,
        window,
        "end_of_file",
        f"{one.name} is called {rate:,.0f} times a second (threshold {RUNS_PER_S:,.0f}/s) for a descriptor that is at "
        f"its end: in {one.at_end:,} of {one.looks:,} looks there was nothing to read",
        (
            Evidence("runs_per_s", rate, RUNS_PER_S, one.steps),
            Evidence("at_end_share", wilson_lower(one.at_end, one.looks), MOSTLY, one.looks),
        ),
        ("A flood: there would be something to read.",),
        one.looks,
    )


def _finding(
    one: CoroutineWindow,
    window: Window,
    subtype: str,
    claim: str,
    evidence: tuple[Evidence, ...],
    ruled_out: tuple[str, ...],
    n: int,
) -> Finding:
    wasted = cores(one, window)
    return Finding(
        cause=CAUSE,
        subtype=subtype,
        verdict="found",
        process_class=window.process_class,
        task=one.name,
        wasted_cores=wasted,
        confidence=confidence(n, window),
        summary=(
            f"{claim}, burning {wasted:.2f} of {window.host.effective_cpus:g} CPUs (threshold {NOTICEABLE_CORES:g})"
            f"{where(one)}."
        ),
        evidence=(*evidence, Evidence("wasted_cores", wasted, NOTICEABLE_CORES, one.steps)),
        ruled_out=ruled_out,
        next_step=NEXT_STEPS[subtype],
        code=seen(one),
    )


def _ends(steps: int, ends: int) -> str:
    if not ends:
        return "and never came to a good end"
    return f"and came to an end once in {steps / ends:,.0f} steps (threshold {STEPS_PER_END:,})"


def _step_us(one: CoroutineWindow) -> float:
    return 1e6 * one.cpu_s / one.steps


def _nevertheless(one: CoroutineWindow, window: Window) -> str:
    """Why what yields so often is no spin all the same: the first condition that it does not meet."""
    if wilson_lower(one.self_wakes, one.steps) <= SELF_WAKES:
        return ""
    more, per_end, used = f" (threshold {SELF_WAKES:.0%}), but ", one.steps / max(1, one.ended), cores(one, window)
    if one.kind != "task":
        return f"{more}it is no task"
    if per_end < STEPS_PER_END:
        return f"{more}it ends once in {per_end:,.0f} steps (threshold {STEPS_PER_END:,})"
    if _step_us(one) > STEP_US:
        return f"{more}a step takes {_step_us(one):,.0f} us (threshold {STEP_US:.0f} us)"
    return f"{more}it uses {used:.3f} CPUs (threshold {NOTICEABLE_CORES:g})"


def _quiet(window: Window) -> Finding:
    busiest = max(window.coroutines, key=lambda one: one.steps)
    evidence = (
        Evidence("self_wake_share", wilson_lower(busiest.self_wakes, busiest.steps), SELF_WAKES, busiest.steps),
        Evidence("steps_per_end", busiest.steps / max(1, busiest.ended), STEPS_PER_END, busiest.steps),
    )
    share = ratio(busiest.self_wakes, busiest.steps)
    summary = (
        f"Most steps were taken by {busiest.name}, {busiest.steps / window.seconds:,.0f} a second, {share:.0%} of them "
        f"after a bare yield{_nevertheless(busiest, window)}: nothing goes round for nothing."
    )
    return clear(CAUSE, window, summary, evidence)
