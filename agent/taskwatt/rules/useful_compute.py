"""Claim: the CPU is high because of work that ends well, with about one attempt for each arrival, and no other rule
found anything.

The answer that saves a night of looking for what these rules would have seen. It does not say that the work is needed:
one job that is scheduled twice, under two names, looks like two jobs.
"""

from __future__ import annotations

from collections.abc import Sequence

from taskwatt.rules.finding import SETTLED_IN_S, Evidence, Finding, clear, conclude, not_enough_data, seen_at
from taskwatt.rules.statistics import confidence
from taskwatt.windows import TaskWindow, Window

CAUSE = "useful_compute"
WINDOW_S = 10.0

BUSY_CORES = 0.5
"""Half a core is where people begin to ask. A share of the slots would say nothing of 1.5 busy cores in a pool of 8."""

BUSY_SHARE = 0.5
"""Of E, where the machine gives less than one CPU: half of a small quota is as much a question as half a core."""

USEFUL = 0.85
"""Of the CPU no longer in flight: leaves room for the worker's idle work and the 10 % the ledger may not explain."""

AMPLIFICATION = 1.1
"""Attempts for each logical id; 5 % of honest retries stay below."""

NEXT_STEP = (
    "None of the retries, re-created tasks, spins and polls that are looked for was found. Whether all of this work is "
    "needed is not known here (a schedule that is registered twice looks like two jobs): where it is, add capacity, or "
    "profile and optimise the task named here."
)


def check(window: Window, others: Sequence[Finding] = ()) -> tuple[Finding, ...]:
    """`others` is what the other rules found in the same span: any of it speaks against this claim."""
    running = [task for task in window.tasks if task.settled or task.in_flight]
    busy_from = min(BUSY_CORES, BUSY_SHARE * window.host.effective_cpus)
    cores = f"{window.total_cores:.2f} of {window.host.effective_cpus:g} CPUs busy"
    if not running or window.total_cores < busy_from:
        return (clear(CAUSE, window, f"No high load to explain: {cores} (threshold {busy_from:g})."),)
    if window.seconds < SETTLED_IN_S:
        summary = f"Only {window.seconds:.1f} s were covered; a verdict needs {SETTLED_IN_S:g} s."
        return (not_enough_data(CAUSE, window.process_class, summary),)
    settled = sum(task.settled for task in running)
    judged = _judged_cpu(running, window)
    if not settled or judged <= 0:
        oldest = max(running, key=lambda task: task.oldest_in_flight_s)
        summary = (
            f"{cores}, but no attempt has ended: useful or not is not decided. {oldest.task} has run for "
            f"{oldest.oldest_in_flight_s:.0f} s{seen_at(oldest)}."
        )
        return (not_enough_data(CAUSE, window.process_class, summary),)
    useful = min(1.0, sum(task.cpu.get("useful", 0.0) for task in running) / judged)
    amplification = settled / max(1, sum(task.firsts for task in running))
    evidence: tuple[Evidence, ...] = (
        Evidence("total_cores", window.total_cores, busy_from, int(window.seconds)),
        Evidence("useful_ratio", useful, USEFUL, settled),
        Evidence("amplification", amplification, AMPLIFICATION, settled),
    )
    numbers = f"{useful:.0%} of it useful (threshold {USEFUL:.0%})"
    if not window.attempted:
        # Steps of coroutines and requests are no attempts: nobody tries them again.
        evidence, amplification = evidence[:2], 1.0
    else:
        numbers += f", {amplification:.2f} attempts for each arrival (threshold {AMPLIFICATION:g})"
    if others:
        causes = ", ".join(dict.fromkeys(finding.cause for finding in others))
        return (clear(CAUSE, window, f"The load has another explanation: {causes}.", evidence),)
    if useful < USEFUL or amplification > AMPLIFICATION:
        return (clear(CAUSE, window, f"{cores}, {numbers}: not all of it is useful.", evidence),)
    heaviest = max(running, key=lambda task: task.cpu.get("useful", 0.0))
    found = _found(heaviest, window, f"{cores}, {numbers}", evidence, confidence(settled, window))
    return conclude((found,), found)


def _judged_cpu(running: Sequence[TaskWindow], window: Window) -> float:
    """CPU seconds of which it is known whether they were useful: all but what is in flight."""
    ended = sum(task.cpu_total - task.cpu.get("pending", 0.0) for task in running)
    return ended + window.cpu_none + max(0.0, window.cpu_unattributed)


def _found(
    heaviest: TaskWindow, window: Window, numbers: str, evidence: tuple[Evidence, ...], believed: float
) -> Finding:
    share = heaviest.cpu.get("useful", 0.0) / window.seconds
    return Finding(
        cause=CAUSE,
        verdict="found",
        process_class=window.process_class,
        task=heaviest.task,
        confidence=believed,
        summary=f"The load is real work: {numbers}; {heaviest.task} uses {share:.2f} of them{seen_at(heaviest)}.",
        evidence=evidence,
        ruled_out=("Repeated waste: none of the rules that look for it found any.",),
        next_step=NEXT_STEP,
        code=heaviest.code,
    )
