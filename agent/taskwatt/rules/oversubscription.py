"""Claim: more of our own work is runnable than there are CPUs, so it waits for itself.

The kernel's run-queue delay tells it: demand D is the CPU used plus the CPU waited for, E is what may be used, and
max(0, D - E), second by second, is waiting that nobody but ourselves explains. No CPU is wasted by it; time is.
"""

from __future__ import annotations

from taskwatt.rules.finding import SETTLED_IN_S, Evidence, Finding, clear, conclude, not_enough_data
from taskwatt.rules.statistics import host_confidence
from taskwatt.windows import HostWindow, Window

CAUSE = "oversubscription"
WINDOW_S = 10.0

EXCESS_SHARE = 0.5
"""Of E. Measured with E = 2: 6 busy processes have an excess of 3.99 (2.0 E), one beside 5 busy neighbours has none."""

ONE_THREAD_DEMAND = 1.25
"""One runnable thread demands 1 CPU, its idle siblings a little more; own concurrency begins beyond that. One thread
under a quota of 0.5 CPU is starved, not oversubscribed."""

HOST_SHARE = 0.1
"""Of E. Only when the host took less than this can it be ruled out as the reason for the waiting."""

THROTTLED = 0.10
"""Share of the scheduler's periods in which the quota ran out; from here on the quota, not the machine, sets E."""

NEXT_STEP = (
    "Lower the concurrency to the CPUs that may be used (celery worker --concurrency), or give the worker more CPUs: "
    "beyond that more processes add waiting, not throughput."
)


def check(window: Window) -> tuple[Finding, ...]:
    host = window.host
    demand, excess, cpu, run_delay = host.demand, host.own_excess, host.own_cpu, host.own_run_delay
    if demand is None or excess is None or cpu is None or run_delay is None:
        summary = "The kernel does not tell how long our threads waited for a CPU here."
        return (not_enough_data(CAUSE, window.process_class, summary),)
    if window.seconds < SETTLED_IN_S:
        summary = f"Only {window.seconds:.1f} s were covered; a verdict needs {SETTLED_IN_S:g} s."
        return (not_enough_data(CAUSE, window.process_class, summary),)
    effective, n = host.effective_cpus, int(window.seconds)
    threshold = EXCESS_SHARE * effective
    evidence = (
        Evidence("own_excess", excess, threshold, n),
        Evidence("demand", demand, effective, n),
        Evidence("run_delay_per_cpu", run_delay / cpu if cpu else 0.0, EXCESS_SHARE, n),
    )
    numbers = f"own work asks for {demand:.2f} CPUs where {effective:g} may be used"
    alone = ", but one thread alone does not compete with itself" if excess >= threshold else ""
    quiet = clear(
        CAUSE, window, f"{_capital(numbers)}: {excess:.2f} too many (threshold {threshold:.2f}){alone}.", evidence
    )
    if excess < threshold or demand <= ONE_THREAD_DEMAND:
        return (quiet,)
    quota = (host.throttled_ratio or 0.0) >= THROTTLED
    processes = f"{host.runnable_processes} processes with work" if host.runnable_processes else "our threads"
    found = Finding(
        cause=CAUSE,
        subtype="quota" if quota else "concurrency",
        verdict="found",
        process_class=window.process_class,
        confidence=host_confidence(n),
        summary=(
            f"The {window.process_class} processes compete with each other: {numbers}"
            f"{' under its quota' if quota else ''}, {excess:.2f} too many (threshold {threshold:.2f}), "
            f"from {processes}."
        ),
        evidence=evidence,
        ruled_out=_ruled_out(host),
        next_step=NEXT_STEP,
    )
    return conclude((found,), quiet)


def _ruled_out(host: HostWindow) -> tuple[str, ...]:
    taken, threshold = host.shortfall or 0.0, HOST_SHARE * host.effective_cpus
    return (f"The host: it took {taken:.2f} CPUs from us (threshold {threshold:.2f}).",) if taken < threshold else ()


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
