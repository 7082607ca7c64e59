"""Claim: CPU that was ours to have was taken away by the host, and names who took it. Our own concurrency did not.

min(D, E) is what the own processes could have used; what they did not get of it, though no CPU was idle, is the
shortfall. As with every kind of waiting, no CPU is wasted by it.
"""

from __future__ import annotations

from typing import Literal

from taskwatt.rules.finding import SETTLED_IN_S, Evidence, Finding, clear, conclude, not_enough_data
from taskwatt.rules.oversubscription import EXCESS_SHARE, ONE_THREAD_DEMAND, THROTTLED
from taskwatt.rules.statistics import host_confidence
from taskwatt.windows import HostWindow, Window

CAUSE = "starved"
WINDOW_S = 10.0

SHORTFALL_SHARE = 0.25
"""Of what could have been used. Measured: a lone process 0.07, 8 doing IO 0.17, one beside 5 busy neighbours 0.86."""

SHORTFALL_CPUS = 0.1
"""A tenth of a CPU is where anybody would feel it. Waiting alone does not tell: small tasks that use 0.27 CPUs of an
otherwise idle machine of two wait 0.07 to 0.10 CPUs for the scheduler; as 1.6 CPUs are idle, nothing is withheld."""

STEAL = 0.05
"""Share of the machine's time that the hypervisor kept; a neighbour on our own side of it leaves this at 0."""

Taker = Literal["quota", "hypervisor", "neighbour"]

TAKERS: dict[Taker, tuple[str, str]] = {
    "quota": (
        "its CPU quota",
        "Raise the CPU limit of the container or cgroup, or spread the load: the quota runs out in most periods.",
    ),
    "hypervisor": (
        "the hypervisor",
        "Move to a host or instance type with dedicated CPUs: another virtual machine uses them.",
    ),
    "neighbour": (
        "other processes on this machine",
        "Find the neighbour (top, pidstat), move one of the two, or give this one a CPU reservation.",
    ),
}


def check(window: Window) -> tuple[Finding, ...]:
    host = window.host
    demand, cpu, shortfall = host.demand, host.own_cpu, host.shortfall
    if demand is None or cpu is None or shortfall is None:
        summary = "The kernel does not tell how long our threads waited for a CPU here."
        return (not_enough_data(CAUSE, window.process_class, summary),)
    if window.seconds < SETTLED_IN_S:
        summary = f"Only {window.seconds:.1f} s were covered; a verdict needs {SETTLED_IN_S:g} s."
        return (not_enough_data(CAUSE, window.process_class, summary),)
    taker, available = _taker(host), min(demand, host.effective_cpus)
    if taker == "quota" and demand <= ONE_THREAD_DEMAND:
        # One thread alone cannot oversubscribe itself: what a quota below one CPU withholds is the host's doing.
        shortfall, available = demand - cpu, demand
    n = int(window.seconds)
    threshold = max(SHORTFALL_CPUS, SHORTFALL_SHARE * available)
    evidence = (Evidence("shortfall", shortfall, threshold, n), *_withheld(host, n))
    numbers = (
        f"{shortfall:.2f} of the {available:.2f} CPUs that were ours to use were withheld (threshold {threshold:.2f})"
    )
    quiet = clear(CAUSE, window, f"{numbers}.", evidence)
    if shortfall < threshold:
        return (quiet,)
    name, next_step = TAKERS[taker]
    found = Finding(
        cause=CAUSE,
        subtype=taker,
        verdict="found",
        process_class=window.process_class,
        confidence=host_confidence(n),
        summary=f"The {window.process_class} processes are held back by {name}: {numbers}.",
        evidence=evidence,
        ruled_out=_ruled_out(host, taker),
        next_step=next_step,
    )
    return conclude((found,), quiet)


def _taker(host: HostWindow) -> Taker:
    if (host.throttled_ratio or 0.0) >= THROTTLED:
        return "quota"
    return "hypervisor" if (host.steal_ratio or 0.0) >= STEAL else "neighbour"


def _withheld(host: HostWindow, n: int) -> tuple[Evidence, ...]:
    known = (("throttled_ratio", host.throttled_ratio, THROTTLED), ("steal_ratio", host.steal_ratio, STEAL))
    return tuple(Evidence(metric, value, threshold, n) for metric, value, threshold in known if value is not None)


def _ruled_out(host: HostWindow, taker: Taker) -> tuple[str, ...]:
    said: list[str] = []
    demand, excess = host.demand or 0.0, host.own_excess or 0.0
    if demand <= ONE_THREAD_DEMAND:
        said.append(f"Own concurrency: own work asks for {demand:.2f} CPUs, as one thread does.")
    elif excess < EXCESS_SHARE * host.effective_cpus:
        said.append(f"Own concurrency: it explains {excess:.2f} CPUs of waiting.")
    if taker != "quota" and host.throttled_ratio is not None:
        said.append(f"A quota: it ran out in {host.throttled_ratio:.0%} of its periods (threshold {THROTTLED:.0%}).")
    if taker == "neighbour" and host.steal_ratio is not None:
        said.append(f"The hypervisor: it kept {host.steal_ratio:.1%} of the time (threshold {STEAL:.0%}).")
    return tuple(said)
