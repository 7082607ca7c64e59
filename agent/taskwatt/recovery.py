"""What a dead agent left behind.

Attempts it never folded, attempts it folded but never reported, spans it never sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

from taskwatt.drainer import Collected, Drainer, Settled
from taskwatt.journal import Journal
from taskwatt.observations import Attempt, Cpu, ProcessClass
from taskwatt.segments import AgentDirectory, Damaged, SegmentReader
from taskwatt.segments.reader import Drained
from taskwatt.segments.records import decode

_GRACE_S: Final = 10.0


@dataclass(slots=True)
class Recovered:
    """What the survivor has to keep."""

    collected: Collected = field(default_factory=Collected)
    unsent: list[Drained] = field(default_factory=list[Drained])
    """Records whose spans no receiver has."""


def recover(
    directory: AgentDirectory, ended_as: Callable[[str], str | None], keep: Callable[[Recovered], None]
) -> bool:
    """Give everything of a dead agent that no receiver has to `keep`, then remove the directory.

    Nothing is done while the agent lives or another survivor is at it. The dead agent's segment stays locked and in its
    place until `keep` has returned: of several survivors one recovers, and the next starts over should that one die.
    False: try again soon, its children are still ending.
    """
    try:
        owner = SegmentReader(directory.owner_segment)
    except (Damaged, OSError):
        _clear_rubbish(directory)
        return True
    try:
        if owner.alive() or not owner.claim() or not directory.owner_segment.exists():
            return True
        journal = Journal(directory.path)
        drainer = Drainer(directory, journal, {}, ended_as, recovered=owner)
        try:
            if not drainer.all_ended():
                return False
            found = Recovered(_reported_late(journal, owner))
            _join(found.collected, drainer.collect())
            _charge(found.collected)
            found.unsent = [record for _, record in journal.read(journal.spans, journal.last)]
        finally:
            drainer.close()
            journal.close()
        try:
            keep(found)
        finally:  # whatever it kept before it failed must not be kept once more
            directory.remove()
        return True
    finally:
        owner.close()


def _clear_rubbish(directory: AgentDirectory) -> None:
    """A folder without an owner's segment: its maker died at birth, or a survivor while removing it.

    Or it is just being made, hence the grace period.
    """
    try:
        if time.time() - directory.path.stat().st_mtime > _GRACE_S:
            directory.remove()
    except OSError:
        pass


def _reported_late(journal: Journal, owner: SegmentReader) -> Collected:
    """Attempts that were folded by the dead agent after its last accepted metrics: nobody counts them but us."""
    process_class = cast(ProcessClass, owner.process_class)
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
