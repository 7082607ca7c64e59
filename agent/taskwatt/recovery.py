"""What a dead agent left behind.

Attempts it never folded, attempts it folded but never reported, spans it never sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from taskwatt.drainer import Collected, Drainer, Settled
from taskwatt.journal import Journal
from taskwatt.observations import Attempt, Cpu, ProcessClass
from taskwatt.segments import AgentDirectory, Damaged, SegmentReader
from taskwatt.segments.reader import Drained
from taskwatt.segments.records import decode


@dataclass(slots=True)
class Recovered:
    """`complete` is False while processes of the dead agent are still ending."""

    complete: bool
    collected: Collected = field(default_factory=Collected)
    unsent: list[Drained] = field(default_factory=list[Drained])


def recover(directory: AgentDirectory, ended_as: Callable[[str], str | None]) -> Recovered | None:
    """Everything of a dead agent that no receiver has; None while it lives, or when another survivor is at it.

    The caller removes the directory once it keeps the result.
    """
    if not directory.owner_segment.exists():
        return _orphan(directory)
    try:
        owner = SegmentReader(directory.owner_segment)
    except (Damaged, OSError):
        return _orphan(directory)
    try:
        if owner.alive() or not owner.claim():
            return None
        journal = Journal(directory.path)
        drainer = Drainer(directory, journal, {}, ended_as)
        if not drainer.all_ended():
            drainer.close()
            return Recovered(complete=False)
        found = Recovered(complete=True, collected=_reported_late(journal, owner))
        _join(found.collected, drainer.collect())
        _charge(found.collected)
        found.unsent = [record for _, record in journal.read(journal.spans, journal.last)]
        drainer.close()
        journal.close()
        return found
    finally:
        owner.close()


def _orphan(directory: AgentDirectory) -> Recovered | None:
    """A folder without an owner's segment: its maker died at birth. Only rubbish to clear, after a grace period."""
    try:
        if time.time() - directory.path.stat().st_mtime < 10.0:
            return None
    except OSError:
        return None
    return Recovered(complete=True)


def _reported_late(journal: Journal, owner: SegmentReader) -> Collected:
    """Attempts that were folded by the dead agent after its last accepted metrics: nobody counts them but us."""
    process_class = owner.process_class
    found = Collected()
    for _, record in journal.read(journal.metrics, journal.last):
        observed = decode(record)
        if isinstance(observed, Attempt):
            found.settled.append(Settled(process_class, observed, own=False))
    return found


def _charge(collected: Collected) -> None:
    """The kernel's figures died with the processes.

    What the attempts used is all that is known, and nothing idle is claimed.
    """
    collected.idle_cpu.clear()
    collected.kernel.clear()
    used: list[tuple[ProcessClass, Cpu]] = [(one.process_class, one.attempt.cpu) for one in collected.settled]
    used.extend((one.process_class, one.cpu) for one in collected.totals)
    for process_class, cpu in used:
        seconds = cpu.total - cpu.subprocesses
        collected.kernel[process_class] = collected.kernel.get(process_class, 0.0) + seconds


def _join(into: Collected, other: Collected) -> None:
    into.settled.extend(other.settled)
    into.totals.extend(other.totals)
    for reason, count in other.dropped.items():
        into.dropped[reason] = into.dropped.get(reason, 0) + count
