"""What a dead agent left behind: attempts it never folded, attempts it folded but never reported, spans it never sent.

A survivor takes the dead agent's folder into its own with one rename. That is the claim (of two survivors one fails)
and the hand-over at once: whoever dies at whatever moment, each record is in exactly one folder, and that folder's
marks say what the receivers have. What the dead agent had itself inherited comes along.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from taskwatt.drainer import Collected, Drainer, Settled, totals_of
from taskwatt.journal import Journal
from taskwatt.observations import Attempt, Cpu, ProcessClass
from taskwatt.segments import AgentDirectory, Damaged, SegmentReader
from taskwatt.segments.records import decode, decode_taken

_YOUNG_S: Final = 10.0
"""A segment that is missing or cannot be read may still be being made for so long."""


@dataclass(slots=True)
class Recovered:
    """`complete` is False while processes of the dead agent are still ending: nothing was taken over yet."""

    complete: bool
    collected: Collected = field(default_factory=Collected)
    """What no metric receiver has."""
    journals: list[Journal] = field(default_factory=list[Journal])
    """What no span receiver has."""


def recover(directory: AgentDirectory, heir: AgentDirectory, ended_as: Callable[[str], str | None]) -> Recovered | None:
    """Take a dead agent's folder over; None while it lives, or when another survivor was faster."""
    if _may_live(directory.owner_segment):
        return None
    if any(_may_live(path) for path in directory.segments()):
        return Recovered(complete=False)
    heir.inherited.mkdir(mode=0o700, exist_ok=True)
    try:
        taken = directory.path.rename(heir.inherited / directory.path.name)
    except FileNotFoundError:
        return None
    found = Recovered(complete=True)
    _open(AgentDirectory(taken), heir, ended_as, found)
    return found


def _may_live(segment: Path) -> bool:
    try:
        reader = SegmentReader(segment)
    except (Damaged, OSError):
        return min(_age(segment), _age(segment.parent)) < _YOUNG_S
    try:
        return reader.alive()
    finally:
        reader.close()


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return math.inf


def _open(taken: AgentDirectory, heir: AgentDirectory, ended_as: Callable[[str], str | None], found: Recovered) -> None:
    for nested in sorted(taken.inherited.glob("*")):
        _open(AgentDirectory(nested.rename(heir.inherited / nested.name)), heir, ended_as, found)
    journal = Journal(taken.path)
    _read_unreported(journal, _process_class(taken), found.collected)
    drainer = Drainer(taken, journal, {}, ended_as, ended_ns=_last_tick_ns(taken))
    _join(found.collected, drainer.collect())
    _charge(found.collected)
    drainer.close()
    journal.close()
    found.journals.append(journal)


def _process_class(taken: AgentDirectory) -> ProcessClass:
    try:
        reader = SegmentReader(taken.owner_segment)
    except (Damaged, OSError):
        return "worker"
    try:
        return reader.process_class
    finally:
        reader.close()


def _last_tick_ns(taken: AgentDirectory) -> int:
    """When the dead agent was last seen alive, to a second: it writes its verdicts each tick; 0 if it never did.

    What then ran longer is not known, and not made up.
    """
    try:
        return taken.latest.stat().st_mtime_ns
    except OSError:
        return 0


def _read_unreported(journal: Journal, process_class: ProcessClass, found: Collected) -> None:
    """Attempts that were folded by the dead agent after its last accepted metrics: nobody counts them but us."""
    missing = journal.last - journal.metrics
    for _, record in journal.read(journal.metrics, missing):
        missing -= 1
        observed = decode(record)
        if isinstance(observed, Attempt):
            found.settled.append(Settled(process_class, observed, own=False))
        elif (cell := decode_taken(record)) is not None:
            found.totals.append(totals_of(process_class, cell))
    if missing > 0:
        found.dropped["unreported"] = found.dropped.get("unreported", 0) + missing


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
