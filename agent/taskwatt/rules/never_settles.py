"""Claim: background work re-creates itself, or one piece of it never reaches an end.

Three shapes: a task that publishes itself again with the arguments it was given (`re_enqueue`), a logical id that is
tried again and again without success, failure or anything else final (`endless_retry`), and a message that comes back
each time that the process which works on it dies (`poison_message`). A chain that drains and a pagination publish
themselves with *other* arguments and are fine.
"""

from __future__ import annotations

from taskwatt.rules import retry_storm
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
from taskwatt.rules.statistics import confidence, host_confidence, wilson_lower
from taskwatt.windows import TaskWindow, Window

CAUSE = "never_settles"
WINDOW_S = 10.0

DEPTH = 20
"""Generations of one task name publishing itself. A loop of empty tasks (683/s on Redis) passes 20 within 30 ms."""

REPEATED_ARGS = 0.50
"""Share of the self-published attempts that repeat their arguments: 0 for pagination, 1 for a loop."""

UNSETTLED_ATTEMPTS = 10
"""Celery's default is 3 retries; ten attempts without an end are no policy that anybody chose."""

DEATHS = 3
"""Processes that one message was the end of. Once is an accident or a deployment, and twice may be."""

RE_ENQUEUE_STEP = (
    "Give the task an end: publish it again only while work is left, with arguments that move forward, or let beat "
    "start it. Purge the queue afterwards: the messages already published go on."
)
ENDLESS_STEP = (
    "Set max_retries (None retries for ever) and decide what happens after the last one: a dead-letter queue, "
    "an alert, or giving up."
)

POISON_STEP = (
    "Take that message out of the queue, and find out what ends the process: its memory (the kernel's log names what "
    "it killed), a native library, os._exit. Until then let go of it: reject_on_worker_lost=False, or a queue that "
    "gives up after some deliveries (a quorum queue of RabbitMQ's)."
)


def check(window: Window) -> tuple[Finding, ...]:
    running = [task for task in window.attempted if task.settled or task.in_flight]
    if not running:
        return (clear(CAUSE, window, "No task ran, so none re-created itself."),)
    if window.seconds < SETTLED_IN_S:
        summary = f"Only {window.seconds:.1f} s were covered; a verdict needs {SETTLED_IN_S:g} s."
        return (not_enough_data(CAUSE, window.process_class, summary),)
    shapes = (shape(task, window) for task in running for shape in (_re_enqueue, _endless, _poison))
    return conclude([finding for finding in shapes if finding is not None], _quiet(running, window))


def _re_enqueue(task: TaskWindow, window: Window) -> Finding | None:
    repeated = wilson_lower(task.repeated_args, task.self_published)
    wasted = _self_published_cores(task, window)
    if task.max_depth < DEPTH or repeated < REPEATED_ARGS or wasted < NOTICEABLE_CORES:
        return None
    return Finding(
        cause=CAUSE,
        subtype="re_enqueue",
        verdict="found",
        process_class=window.process_class,
        task=task.task,
        wasted_cores=wasted,
        confidence=confidence(task.self_published, window),
        summary=(
            f"{task.task} publishes itself again with the same arguments: {task.repeated_args:,} of "
            f"{task.self_published:,} self-published attempts repeat them "
            f"({task.repeated_args / task.self_published:.0%}, threshold {REPEATED_ARGS:.0%}), "
            f"{task.max_depth:,} generations deep (threshold {DEPTH}), burning {wasted:.2f} of "
            f"{window.host.effective_cpus:g} CPUs (threshold {NOTICEABLE_CORES:g}){seen_at(task)}."
        ),
        evidence=(
            Evidence("depth", task.max_depth, DEPTH, task.self_published),
            Evidence("repeated_args_share", repeated, REPEATED_ARGS, task.self_published),
            Evidence("wasted_cores", wasted, NOTICEABLE_CORES, task.self_published),
        ),
        ruled_out=("Pagination and draining chains: their arguments differ from one generation to the next.",),
        next_step=RE_ENQUEUE_STEP,
        code=task.code,
    )


def _endless(task: TaskWindow, window: Window) -> Finding | None:
    """Slow by nature, so no waste is asked for."""
    attempts = task.unsettled_attempts
    if attempts < UNSETTLED_ATTEMPTS or _has_another_reason(task):
        return None
    wasted = task.repeat_wasted_cpu / window.seconds
    return Finding(
        cause=CAUSE,
        subtype="endless_retry",
        verdict="found",
        process_class=window.process_class,
        task=task.task,
        wasted_cores=wasted,
        confidence=confidence(attempts, window),
        summary=(
            f"{task.task} never settles: one of its messages has used {attempts:,} attempts without an end "
            f"(threshold {UNSETTLED_ATTEMPTS}){seen_at(task)}."
        ),
        evidence=(
            Evidence("unsettled_attempts", attempts, UNSETTLED_ATTEMPTS, attempts),
            Evidence("wasted_cores", wasted, NOTICEABLE_CORES, task.repeat_attempts),
        ),
        ruled_out=("A retry storm: the pauses between the attempts are real.",),
        next_step=ENDLESS_STEP,
        code=task.code,
    )


def _poison(task: TaskWindow, window: Window) -> Finding | None:
    """Slow as well: a pool takes a second or more to replace a process."""
    deaths = task.deaths
    if deaths < DEATHS:
        return None
    wasted = task.cpu.get("cancelled", 0.0) / window.seconds
    return Finding(
        cause=CAUSE,
        subtype="poison_message",
        verdict="found",
        process_class=window.process_class,
        task=task.task,
        wasted_cores=wasted,
        confidence=host_confidence(int(window.seconds)),
        summary=(
            f"{task.task} never settles: {deaths:,} times the process died that worked on one of its messages "
            f"(threshold {DEATHS}), and each time the message came back{seen_at(task)}."
        ),
        evidence=(
            Evidence("deaths", deaths, DEATHS, deaths),
            Evidence("wasted_cores", wasted, NOTICEABLE_CORES, task.attempts.get("cancelled", 0)),
        ),
        ruled_out=("A deployment, or one accident: those do not meet the same message again and again.",),
        next_step=POISON_STEP,
        code=task.code,
    )


def _has_another_reason(task: TaskWindow) -> bool:
    """Retries without a pause belong to retry_storm.

    A task that polls (chord_unlock) retries until what it waits for is done: its attempts say nothing about an end.
    """
    return retry_storm.without_pause(task) or bool(task.attempts.get("polling"))


def _self_published_cores(task: TaskWindow, window: Window) -> float:
    """CPUs of the share of a task's attempts that it published itself."""
    share = min(1.0, task.self_published / max(1, task.settled))
    return task.cpu_total * share / window.seconds


def _quiet(running: list[TaskWindow], window: Window) -> Finding:
    deepest = max(running, key=lambda task: (task.max_depth, task.repeated_args))
    depth, repeated = deepest.max_depth, wilson_lower(deepest.repeated_args, deepest.self_published)
    attempts = max((task.unsettled_attempts for task in running if not _has_another_reason(task)), default=0)
    deaths = max(task.deaths for task in running)
    settled = sum(task.settled for task in running)
    summary = (
        f"At most {depth:,} generations (threshold {DEPTH}) with {repeated:.0%} repeated arguments "
        f"(threshold {REPEATED_ARGS:.0%}), and {attempts:,} attempts without an end (threshold {UNSETTLED_ATTEMPTS})"
        + (f"; one message met {deaths} processes that died (threshold {DEATHS})." if deaths else ".")
    )
    evidence = (
        Evidence("depth", depth, DEPTH, settled),
        Evidence("repeated_args_share", repeated, REPEATED_ARGS, deepest.self_published),
        Evidence("unsettled_attempts", attempts, UNSETTLED_ATTEMPTS, settled),
    )
    return clear(CAUSE, window, summary, evidence)
