"""Claim: a coroutine wakes again and again to look for something that is not there, and the looking burns CPU.

Two shapes: reads that a short timeout ends with nothing (`empty_read`), and short sleeps between looks (`sleep`). What
waits until there is something uses nothing meanwhile, so all of a poll's CPU is waste, the loop's share included.
"""

from __future__ import annotations

from collections.abc import Mapping

from taskwatt.rules import hot_loop
from taskwatt.rules.finding import SETTLED_IN_S, Evidence, Finding, clear, conclude, not_enough_data
from taskwatt.rules.loop_share import MOSTLY, NO_LOOP, cores, mostly, ratio, seen, tasks, where
from taskwatt.rules.statistics import confidence, wilson_lower
from taskwatt.windows import CoroutineWindow, Window

CAUSE = "polling"
WINDOW_S = 10.0

SHORT_WAITS = 0.5
"""Of the suspensions last 50 ms at the most: the median does. A scheduler that wakes every 100 ms has none."""

STEPS_PER_END = 100
"""A poll goes on; a job that sleeps for a moment ends after a few steps."""

SLEEP_CORES = 0.01
"""Half of what is worth a word: a window still holds seconds from before the poll began, and it shall be told within
12 s. A sleep of 1 ms between two looks costs 0.046 CPUs, a scheduler at 10 Hz 0.001."""

EMPTY_READ_CORES = 0.005
"""A read that timed out has certainly found nothing, so half of that is enough: redis-py's `get_message(timeout=0.01)`
costs 0.016 CPUs, without a timeout 0.98."""

SLEEPING = 0.4
"""Of the looks, with what a timeout ended. An aiohttp client that asks and sleeps for 10 ms was met asleep in 53 % of
them, one that only sleeps in 100 %; queue consumers and listeners in none."""

STEP_US = 1_000.0
"""To look takes 9 us (a queue) to 145 us (an HTTP request and its answer). What works for longer at every tick is no
poll but a clock: a frame of 2 ms at 60 Hz."""

WAKES_OTHERS = 0.2
"""Share of the steps after which something was ready. Measured: 0.00 of a poll, over HTTP too; 1.00 of a paced
producer, 0.40 of one that publishes over Redis."""

CONSUMER = "A consumer with much to do: it would be met waiting for work, not in {}."

NEXT_STEPS: Mapping[str, str] = {
    "empty_read": (
        "Wait without a timeout until there is something (redis-py: async for message in pubsub.listen(), or "
        "get_message(timeout=None); a queue: await queue.get()), and cancel the task to end it."
    ),
    "sleep": (
        "Have it told: wait for an asyncio.Event, a Queue or the peer's own notification (long polling, a websocket, "
        "pub/sub). Where only a poll is possible, sleep for longer, or ever longer while nothing comes. "
        "What does something of use at each wake, such as sending, is a clock and no poll."
    ),
}


def check(window: Window) -> tuple[Finding, ...]:
    running = tasks(window)
    if not running:
        return (clear(CAUSE, window, NO_LOOP),)
    if window.seconds < SETTLED_IN_S:
        summary = f"Only {window.seconds:.1f} s were covered; a verdict needs {SETTLED_IN_S:g} s."
        return (not_enough_data(CAUSE, window.process_class, summary),)
    spins = hot_loop.claimed(window)
    waiting = [one for one in running if one.name not in spins and _wakes_often(one)]
    found = [_finding(one, shape, window) for one in waiting if (shape := _shape(one, window))]
    return conclude(found, _quiet(running, window))


def _wakes_often(one: CoroutineWindow) -> bool:
    return wilson_lower(one.short_waits, one.waits) > SHORT_WAITS and one.steps >= STEPS_PER_END * max(1, one.ended)


def _shape(one: CoroutineWindow, window: Window) -> str:
    used = cores(one, window)
    empty = ratio(one.timed_out, one.looks) >= SLEEPING and mostly(one.timed_out + one.sleeping, one.looks)
    if empty and used >= EMPTY_READ_CORES:
        return "empty_read"
    asleep = ratio(one.sleeping + one.timed_out, one.looks)
    a_look = 1e6 * one.cpu_s / one.steps <= STEP_US and ratio(one.woke, one.last) < WAKES_OTHERS
    enough = wilson_lower(one.looks, one.looks) >= MOSTLY
    return "sleep" if enough and asleep >= SLEEPING and a_look and used >= SLEEP_CORES else ""


def _finding(one: CoroutineWindow, shape: str, window: Window) -> Finding:
    used, per_s = cores(one, window), one.steps / window.seconds
    least = EMPTY_READ_CORES if shape == "empty_read" else SLEEP_CORES
    idle = one.timed_out + one.sleeping
    what = "reads that a timeout ended with nothing" if shape == "empty_read" else "short sleeps"
    threshold = MOSTLY if shape == "empty_read" else SLEEPING
    return Finding(
        cause=CAUSE,
        subtype=shape,
        verdict="found",
        process_class=window.process_class,
        task=one.name,
        wasted_cores=used,
        confidence=confidence(min(one.looks, one.waits), window),
        summary=(
            f"{one.name} polls: it wakes {per_s:,.0f} times a second, {ratio(one.short_waits, one.waits):.0%} of its "
            f"waits last 50 ms at the most (threshold {SHORT_WAITS:.0%}), and {ratio(idle, one.looks):.0%} of the "
            f"looks met it in {what} (threshold {threshold:.0%}), burning {used:.3f} of "
            f"{window.host.effective_cpus:g} CPUs (threshold {least:g}){where(one)}."
        ),
        evidence=(
            Evidence("short_wait_share", wilson_lower(one.short_waits, one.waits), SHORT_WAITS, one.waits),
            Evidence("empty_wait_share", ratio(idle, one.looks), threshold, one.looks),
            Evidence("wakes_per_s", per_s, STEPS_PER_END / window.seconds, one.steps),
            Evidence("cpu_per_step_us", 1e6 * one.cpu_s / one.steps, STEP_US, one.steps),
            Evidence("wasted_cores", used, least, one.steps),
        ),
        ruled_out=(CONSUMER.format(what), *_produces(one, shape)),
        next_step=NEXT_STEPS[shape],
        code=seen(one),
    )


def _nevertheless(one: CoroutineWindow, window: Window) -> str:
    """Why what uses so much is no poll all the same: the first condition that it does not meet."""
    if cores(one, window) < SLEEP_CORES:
        return ""
    idle, per_end = ratio(one.sleeping + one.timed_out, one.looks), one.steps / max(1, one.ended)
    step_us, woke = 1e6 * one.cpu_s / one.steps, ratio(one.woke, one.last)
    if one.name in hot_loop.claimed(window):
        return ", but it is hot_loop that tells of it"
    if per_end < STEPS_PER_END:
        return f", but it ends once in {per_end:,.0f} steps (threshold {STEPS_PER_END})"
    if wilson_lower(one.short_waits, one.waits) <= SHORT_WAITS:
        short = f"{ratio(one.short_waits, one.waits):.0%} of {one.waits:,} last 50 ms at the most"
        return f", but it is not sure that most of its waits are short: {short} (threshold {SHORT_WAITS:.0%})"
    if idle < SLEEPING:
        return f", but only {idle:.0%} of the looks met it in such a wait (threshold {SLEEPING:.0%})"
    if step_us > STEP_US:
        return f", but it works for {step_us:,.0f} us at each (threshold {STEP_US:,.0f} us)"
    if woke >= WAKES_OTHERS:
        return f", but {woke:.0%} of its steps make something ready (threshold {WAKES_OTHERS:.0%})"
    return f", but {one.looks:,} looks are too few to be sure"


def _produces(one: CoroutineWindow, shape: str) -> tuple[str, ...]:
    if shape != "sleep" or not one.last:
        return ()
    share = f"{ratio(one.woke, one.last):.0%} of {one.last:,} steps made something ready"
    return (f"A producer with a pace: {share} (threshold {WAKES_OTHERS:.0%}).",)


def _quiet(running: tuple[CoroutineWindow, ...], window: Window) -> Finding:
    idlest = max(running, key=lambda one: (ratio(one.sleeping + one.timed_out, one.looks), one.steps))
    share, used = ratio(idlest.sleeping + idlest.timed_out, idlest.looks), cores(idlest, window)
    evidence = (
        Evidence("empty_wait_share", share, SLEEPING, idlest.looks),
        Evidence("wasted_cores", used, SLEEP_CORES, idlest.steps),
    )
    summary = (
        f"Nothing polls: {idlest.name} wakes from short or empty waits most, {idlest.steps / window.seconds:,.1f} "
        f"times a second, and uses {used:.3f} CPUs (threshold {SLEEP_CORES:g}){_nevertheless(idlest, window)}."
    )
    if not share:
        summary = "No coroutine was met in a sleep or a read that a timeout ended."
    return clear(CAUSE, window, summary, evidence)
