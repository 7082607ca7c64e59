"""Claim: a task retries without pausing for real, nearly every retry fails again, and the CPU of the repeats is wasted.

The waste is the CPU of the attempts that repeat without success. The first attempt of an arrival would have run anyway,
so it is not counted, although it failed as well.
"""

from __future__ import annotations

from taskwatt.observations import ProcessClass
from taskwatt.rules.finding import (
    NOTICEABLE_CORES,
    SETTLED_IN_S,
    Evidence,
    Finding,
    clear,
    conclude,
    not_enough_data,
    seen_at,
)
from taskwatt.rules.statistics import confidence, growth_at_most, median, percentile, steps, wilson_lower
from taskwatt.windows import TaskWindow, Window

CAUSE = "retry_storm"
WINDOW_S = 10.0

RETRY_SHARE = 0.10
"""Twice the 5 % of a healthy service with a flaky dependency; the storm of 121 attempts/s below is at 94 %."""

RETRIES = 20
"""Fewer cannot carry a claim: Wilson's bound for 20 of 20 is 0.84, for 5 of 5 it is 0.57."""

RETRIES_PER_S = 1.0
"""A dependency down under an immediate retry gave 121 attempts/s from 7.8 arrivals/s; below 1/s nothing burns."""

PAUSE_S = 1.0
"""The shortest delay that counts as a pause: Celery's shortest whole-second countdown, and its first backoff step."""

ETA_SLACK_S = 0.05
"""A delay is read a little after its ETA was stamped: a countdown of 1 s reads as 0.95 to 1 s."""

FLAT_DELAY_S = 4.0
"""A delay that does not grow is a storm only below this: every capped backoff goes flat at its cap, which is longer."""

GROWTH = 1.2
"""Backoff doubles; full jitter over 1, 2, 4 s still grows by 1.4 a step; a constant delay by 1.0."""

GROWTH_STEPS = 10
"""Jittered steps scatter by a factor of two (a standard deviation of 0.7 in the logarithm): fewer say nothing."""

REPEATS_SUCCEED = 0.20
"""Where every fifth repeat succeeds, retrying buys something. While a dependency is down, none does."""

HEALTHY_AMPLIFICATION = 1.1
"""One attempt for each arrival, and 10 % more."""

NEXT_STEP = (
    "Give the retry a delay that grows (autoretry_for with retry_backoff=True and retry_jitter=True, or "
    "countdown=2 ** self.request.retries), cap it with max_retries, and look at the dependency that fails."
)


def check(window: Window) -> tuple[Finding, ...]:
    running = [task for task in window.attempted if task.settled or task.in_flight]
    if not running:
        return (clear(CAUSE, window, "No task ran, so none was retried."),)
    if window.seconds < SETTLED_IN_S:
        return (_too_short(window.process_class, window.seconds),)
    storms = [_finding(task, window) for task in running if is_storm(task, window)]
    return conclude(storms, _quiet(running, window))


def is_storm(task: TaskWindow, window: Window) -> bool:
    """Do the retries of `task` meet every threshold? never_settles asks too, so as not to report one cause twice."""
    retried = task.attempts.get("retried", 0)
    return (
        retried >= RETRIES
        and retried / window.seconds >= RETRIES_PER_S
        and wilson_lower(retried, task.settled) > RETRY_SHARE
        and _repeat_success(task) < REPEATS_SUCCEED
        and _wasted_cores(task, window) >= NOTICEABLE_CORES
        and without_pause(task)
    )


def without_pause(task: TaskWindow) -> bool:
    """Is the delay short, or flat and not long? False when no delay was seen: nothing can be claimed about it.

    One instant draw proves nothing (full jitter draws 0 s), so a short median counts only where even the longest tenth
    of the delays is short, or where the delays are known not to grow.
    """
    if not task.retry_delays:
        return False
    if percentile(task.retry_delays, 0.9) + ETA_SLACK_S < PAUSE_S:
        return True
    growth = steps(task.retry_growth)
    known_flat = len(growth) >= GROWTH_STEPS and growth_at_most(growth) < GROWTH
    return known_flat and median(task.retry_delays) + ETA_SLACK_S < FLAT_DELAY_S


def _finding(task: TaskWindow, window: Window) -> Finding:
    retried, settled = task.attempts.get("retried", 0), task.settled
    share = wilson_lower(retried, settled)
    delay = median(task.retry_delays)
    delay_threshold = PAUSE_S if delay + ETA_SLACK_S < PAUSE_S else FLAT_DELAY_S
    wasted = _wasted_cores(task, window)
    amplification = settled / max(1, task.firsts)
    growth = steps(task.retry_growth)
    return Finding(
        cause=CAUSE,
        subtype="immediate" if delay_threshold == PAUSE_S else "flat_delay",
        verdict="found",
        process_class=window.process_class,
        task=task.task,
        wasted_cores=wasted,
        confidence=confidence(settled, window),
        summary=(
            f"{task.task} retries without backing off: {retried:,} of {settled:,} attempts ended in a retry "
            f"({retried / settled:.0%}, threshold {RETRY_SHARE:.0%}) after a median pause of {delay:.2g} s "
            f"(threshold {delay_threshold:g} s), and repeats without success burn {wasted:.2f} of "
            f"{window.host.effective_cpus:g} CPUs (threshold {NOTICEABLE_CORES:g}){seen_at(task)}."
        ),
        evidence=(
            Evidence("amplification", amplification, HEALTHY_AMPLIFICATION, settled),
            Evidence("retry_share", share, RETRY_SHARE, settled),
            Evidence("retries_per_s", retried / window.seconds, RETRIES_PER_S, retried),
            Evidence("median_retry_delay_s", delay, delay_threshold, len(task.retry_delays)),
            *([Evidence("retry_delay_growth", growth_at_most(growth), GROWTH, len(growth))] if growth else []),
            Evidence("repeat_success_share", _repeat_success(task), REPEATS_SUCCEED, task.repeat_attempts),
            Evidence("wasted_cores", wasted, NOTICEABLE_CORES, task.repeat_attempts),
        ),
        ruled_out=_ruled_out(task, growth),
        next_step=NEXT_STEP,
        code=task.code,
    )


def _ruled_out(task: TaskWindow, growth: tuple[float, ...]) -> tuple[str, ...]:
    if growth:
        most = growth_at_most(growth)
        backoff = f"Backoff: over {len(growth):,} steps the delay grows at most {most:.2f}x (threshold {GROWTH:g}x)."
    else:
        longest = percentile(task.retry_delays, 0.9)
        seen = f"nine in ten of {len(task.retry_delays):,} delays are at most {longest:.2g} s"
        backoff = f"Backoff: {seen} (threshold {PAUSE_S:g} s)."
    succeed = (
        f"Retries that help: {task.repeat_useful:,} of {task.repeat_attempts:,} repeats succeeded "
        f"({_repeat_success(task):.0%}, threshold {REPEATS_SUCCEED:.0%})."
    )
    return backoff, succeed


def _quiet(running: list[TaskWindow], window: Window) -> Finding:
    """The line for a window without a storm: clear, unless retries were seen that are too few or too bare to judge."""
    most = max(running, key=lambda task: task.attempts.get("retried", 0))
    retried = most.attempts.get("retried", 0)
    if not retried:
        settled = sum(task.settled for task in running)
        return clear(CAUSE, window, f"None of {settled:,} attempts ended in a retry.")
    if most.settled < RETRIES:
        seen = f"{most.task} was retried {retried:,}x in {most.settled:,} attempts"
        summary = f"{seen}; a verdict needs {RETRIES} attempts."
        return not_enough_data(CAUSE, window.process_class, summary)
    if not most.retry_delays:
        summary = f"{most.task} was retried {retried:,}x, but none of the delays could be read."
        return not_enough_data(CAUSE, window.process_class, summary)
    evidence = Evidence("retry_share", wilson_lower(retried, most.settled), RETRY_SHARE, most.settled)
    summary = (
        f"{most.task} was retried most, {retried:,}x in {most.settled:,} attempts "
        f"({retried / window.seconds:.1f}/s) with a median pause of {median(most.retry_delays):.2g} s: no storm."
    )
    return clear(CAUSE, window, summary, (evidence,))


def _too_short(process_class: ProcessClass, seconds: float) -> Finding:
    summary = f"Only {seconds:.1f} s were covered; a verdict needs {SETTLED_IN_S:g} s."
    return not_enough_data(CAUSE, process_class, summary)


def _wasted_cores(task: TaskWindow, window: Window) -> float:
    return task.repeat_wasted_cpu / window.seconds


def _repeat_success(task: TaskWindow) -> float:
    """A guard, so the plain ratio; 0.0 while no repeat has run yet."""
    return task.repeat_useful / task.repeat_attempts if task.repeat_attempts else 0.0
