"""From verdicts that flicker to incidents that last: when one opens, goes on, resolves, and comes back.

Pure but for the clock it is given. The owner calls `observe` once a tick (1 s) with everything the rules said.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from taskwatt.rules import Finding

Severity: TypeAlias = Literal["info", "warning", "critical"]
State: TypeAlias = Literal["opened", "ongoing", "resolved"]

SEVERITY_NUMBERS: dict[Severity, int] = {"info": 9, "warning": 13, "critical": 17}
"""OpenTelemetry's log severity numbers: INFO, WARN, ERROR."""

SECOND_NS = 1_000_000_000

TICKS, TICKS_TRUE = 10, 8
"""A finding opens when it holds in 8 of 10 ticks: two ticks of noise do not hide it, seven do not make it."""

URGENT_TICKS, URGENT_CORES = 3, 0.5
"""Half a core of waste need not wait: three ticks in a row."""

CLOSES_AFTER_NS = 30 * SECOND_NS
REOPENS_WITHIN_NS = 600 * SECOND_NS
ONGOING_EVERY_NS = 60 * SECOND_NS
"""Backends drop or misplace spans that stay open for long: a living incident is told in segments."""

WARNING_CORES, WARNING_SHARE = 0.1, 0.05
CRITICAL_CORES, CRITICAL_SHARE = 0.5, 0.25

WAITING_CAUSES = frozenset(
    {"oversubscription", "starved", "loop_blocked", "fan_out", "gil_contention", "backlog_growth"}
)
"""They make work wait and waste no CPU, so their waste cannot rank them: a warning from the start."""

LAG, CRITICAL_LAG_S = "lag_p99_s", 1.0
"""The evidence that ranks what holds an event loop: a second for one arrival in a hundred is a service that fails."""


@dataclass(frozen=True, slots=True)
class Incident:
    """One finding's life. The id stays the same through `segment`s, and when it reopens within 10 minutes."""

    id: str
    fingerprint: str
    """The same for the same cause, process class and task, on every machine and after every restart."""
    finding: Finding
    """The newest one that was found."""
    severity: Severity
    """The highest reached since it opened."""
    opened_at_ns: int
    updated_at_ns: int
    segment: int
    """Counts what was told about it: 1 when it opens first, one more with every transition."""
    state: State

    @property
    def severity_number(self) -> int:
        return SEVERITY_NUMBERS[self.severity]


@dataclass(frozen=True, slots=True)
class Transition:
    """Something to tell: an incident opened, goes on (every 60 s), or is resolved."""

    state: State
    incident: Incident


@dataclass(slots=True)
class _Watch:
    """What is remembered about one fingerprint."""

    ticks: deque[bool]
    found_at_ns: int = 0
    told_at_ns: int = 0
    incident: Incident | None = None


class Incidents:
    """Every incident of one agent. Not thread-safe: the tick owns it."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """`clock` gives wall-clock nanoseconds."""
        self._clock = clock
        self._watches: dict[str, _Watch] = {}

    @property
    def active(self) -> tuple[Incident, ...]:
        """Those that are open now, in the order in which they were first seen."""
        incidents = (watch.incident for watch in self._watches.values())
        return tuple(incident for incident in incidents if incident is not None and incident.state != "resolved")

    def observe(self, findings: Iterable[Finding], effective_cpus: float) -> tuple[Transition, ...]:
        """One tick. Returns what changed, in the order in which the incidents were first seen."""
        now = self._clock()
        found = {fingerprint(finding): finding for finding in findings if finding.found}
        for key in found:
            self._watches.setdefault(key, _Watch(deque(maxlen=TICKS)))
        transitions: list[Transition] = []
        for key, watch in list(self._watches.items()):
            transition = _tick(key, watch, found.get(key), effective_cpus, now)
            if transition is not None:
                transitions.append(transition)
            if _forgettable(watch, now):
                del self._watches[key]
        return tuple(transitions)


def fingerprint(finding: Finding) -> str:
    parts = (finding.cause, finding.process_class, finding.task)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def severity(finding: Finding, effective_cpus: float) -> Severity:
    """By wasted cores against the CPUs that may be used, or by what an arrival waits; useful compute is no problem."""
    if any(each.metric == LAG and each.value >= CRITICAL_LAG_S for each in finding.evidence):
        return "critical"
    if finding.cause in WAITING_CAUSES:
        return "warning"
    if finding.wasted_cores >= max(CRITICAL_CORES, CRITICAL_SHARE * effective_cpus):
        return "critical"
    if finding.wasted_cores >= max(WARNING_CORES, WARNING_SHARE * effective_cpus):
        return "warning"
    return "info"


def _tick(key: str, watch: _Watch, finding: Finding | None, effective_cpus: float, now: int) -> Transition | None:
    watch.ticks.append(finding is not None)
    incident = watch.incident
    if finding is not None:
        watch.found_at_ns = now
    if incident is None or incident.state == "resolved":
        if finding is None or not _opens(watch.ticks, finding):
            return None
        return _tell(watch, _open(key, incident, finding, severity(finding, effective_cpus), now))
    if finding is not None:
        worst = max(incident.severity, severity(finding, effective_cpus), key=SEVERITY_NUMBERS.__getitem__)
        watch.incident = incident = replace(incident, finding=finding, severity=worst, updated_at_ns=now)
    if now - watch.found_at_ns >= CLOSES_AFTER_NS:
        watch.ticks.clear()
        return _tell(watch, replace(incident, state="resolved", updated_at_ns=now, segment=incident.segment + 1))
    if now - watch.told_at_ns >= ONGOING_EVERY_NS:
        return _tell(watch, replace(incident, state="ongoing", updated_at_ns=now, segment=incident.segment + 1))
    return None


def _opens(ticks: deque[bool], finding: Finding) -> bool:
    urgent = finding.wasted_cores >= URGENT_CORES and list(ticks)[-URGENT_TICKS:] == [True] * URGENT_TICKS
    return urgent or sum(ticks) >= TICKS_TRUE


def _open(key: str, before: Incident | None, finding: Finding, level: Severity, now: int) -> Incident:
    if before is not None and now - before.updated_at_ns <= REOPENS_WITHIN_NS:
        return Incident(before.id, key, finding, level, now, now, before.segment + 1, "opened")
    identity = hashlib.sha256(f"{key}\0{now}".encode()).hexdigest()[:16]
    return Incident(identity, key, finding, level, now, now, 1, "opened")


def _tell(watch: _Watch, incident: Incident) -> Transition:
    watch.incident, watch.told_at_ns = incident, incident.updated_at_ns
    return Transition(incident.state, incident)


def _forgettable(watch: _Watch, now: int) -> bool:
    """Memory stays bounded by what was found within the last ticks or may still reopen."""
    if any(watch.ticks):
        return False
    if watch.incident is None:
        return True
    return watch.incident.state == "resolved" and now - watch.incident.updated_at_ns > REOPENS_WITHIN_NS
