"""Takes finished attempts out of the segments of one agent, and settles for the processes that died.

Order matters: liveness is read before draining, so that a process seen dead has nothing more to say; records are
journaled before the ring gets its slots back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from taskwatt.journal import Journal
from taskwatt.observations import (
    OUTCOMES,
    STATES,
    Attempt,
    CodeSite,
    Cpu,
    Outcome,
    ProcessClass,
    Publish,
    Stall,
    Tallies,
)
from taskwatt.segments import AgentDirectory, Damaged, SegmentReader, SegmentWriter
from taskwatt.segments.reader import Cell, Drained, InFlight
from taskwatt.segments.records import Taken, decode, killed, pack_taken
from taskwatt.segments.tallies import SUFFIX, TallyReader

log = logging.getLogger("taskwatt")

_DEATHS_KEPT_NS: Final = 60_000_000_000
"""How long a reaped child waits for its segment to be settled; most have been by then, some never had one."""
_UNREAPED: Final = 1024
"""Children that wait to be reaped; more means that nobody tells us of it."""
_GRACE_S: Final = 2.0
"""A segment that is damaged may still be being made for so long."""
_SETTLED_NS: Final = 1_000_000_000


class Death(NamedTuple):
    """What the parent learned when it reaped a child."""

    cpu_s: float
    """Of the process and of what it had reaped."""
    max_rss: int
    died_ns: int


class Settled(NamedTuple):
    """One finished attempt and the process it ran in."""

    process_class: ProcessClass
    attempt: Attempt
    own: bool
    """Ran in the draining process itself (the solo pool)."""


class Totals(NamedTuple):
    """Attempts of which only sums are known."""

    process_class: ProcessClass
    task: str
    outcome: Outcome
    state: str
    attempts: int
    firsts: int
    cpu: Cpu


class Live(NamedTuple):
    """A process that now holds CPU which no record explains yet."""

    pid: int
    process_class: ProcessClass
    task: str
    """Empty when idle."""
    unbooked_s: float
    running_s: float


class Counted(NamedTuple):
    """What the event loops of a child had counted when it last said so."""

    source: str
    """Its segment's name."""
    tallies: Tallies
    anew: bool
    """Did it say so since the last reading?"""
    ended: bool
    """It has died: this was its last word."""


@dataclass(slots=True)
class Collected:
    """One tick's worth of news."""

    settled: list[Settled] = field(default_factory=list[Settled])
    published: list[Publish] = field(default_factory=list[Publish])
    stalls: list[Stall] = field(default_factory=list[Stall])
    totals: list[Totals] = field(default_factory=list[Totals])
    idle_cpu: dict[ProcessClass, float] = field(default_factory=dict[ProcessClass, float])
    """CPU of children booked to no attempt: start-up, threads that outlived theirs, the end of their life."""
    kernel: dict[ProcessClass, float] = field(default_factory=dict[ProcessClass, float])
    """What the kernel charged the children since the last tick."""
    live: list[Live] = field(default_factory=list[Live])
    code: list[CodeSite] = field(default_factory=list[CodeSite])
    counted: list[Counted] = field(default_factory=list[Counted])
    dropped: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(slots=True)
class _Process:
    reader: SegmentReader
    process_class: ProcessClass
    own: bool
    clock: float = 0.0
    booked: float = 0.0
    subprocesses: float = 0.0
    startup: float = 0.0
    outlived: float = 0.0
    cells: dict[int, Cell] = field(default_factory=dict[int, Cell])
    counted: tuple[int, int, int, int] = (0, 0, 0, 0)
    tallies: TallyReader | None = None
    """None of the draining process, which is asked itself."""


class Drainer:
    """Reads every segment in one agent directory; owns its journal."""

    def __init__(
        self,
        directory: AgentDirectory,
        journal: Journal,
        deaths: dict[int, Death],
        ended_as: Callable[[str], str | None],
        own: SegmentWriter | None = None,
        ended_ns: int | None = None,
    ) -> None:
        """`deaths`: reaped children by pid; taken out once settled.

        `ended_as`: Celery's state for a task id whose attempt was killed, if known.
        `own`: the draining process's segment; None when a dead agent's directory is being recovered.
        `ended_ns`: when the processes of a dead agent were last seen alive (wall); None for those that end now.
        """
        self.directory = directory
        self.journal = journal
        self._deaths = deaths
        self._ended_as = ended_as
        self._own = own
        self._ended_ns = ended_ns
        self._processes: dict[Path, _Process] = {}
        self._refused: set[Path] = set()
        self._newly_refused = 0
        self._failed = False
        self._listed_ns = 0
        """When the directory had last changed as it was listed; 0: it may have changed at that moment."""
        self._unreaped: dict[int, float] = {}
        """CPU known of children that were settled before their parent reaped them."""

    def collect(self) -> Collected:
        """Everything new since the last call. A segment that cannot be read takes nothing else with it."""
        found = Collected()
        self._discover()
        for path, process in list(self._processes.items()):
            try:
                ended = self._collect(process, found)
            except Exception as error:
                self._refuse(path, error)
                ended = True
            if ended:
                self._part_with(path, process)
        if self._newly_refused:
            found.dropped["segment"], self._newly_refused = self._newly_refused, 0
        self._account_unknown(found)
        self._forget_old_deaths()
        return found

    def stirred(self) -> bool:
        """Has a known process begun or ended anything since the last `collect`? Cheap; may say so for nothing."""
        return any(process.reader.stirred() for process in self._processes.values())

    def _collect(self, process: _Process, found: Collected) -> bool:
        """Has the process ended? Then this was its last word."""
        alive = process.reader.alive()
        # Before the records: an attempt that ends in between is seen twice for one tick, rather than not at all.
        running = process.reader.in_flight() if alive else None
        records = process.reader.drain(ended=not alive)
        if not alive:
            killed = self._settle_killed(process, found)
            if killed is not None:
                records.append(killed)
        self._keep(process, records, found)
        self._read_tallies(process, alive, found)
        self._account(process, alive, running, found)
        return not alive

    def _part_with(self, path: Path, process: _Process) -> None:
        # Out of the books first: a process forked in between must not close what was closed already.
        del self._processes[path]
        process.reader.close()
        if path not in self._refused:
            path.unlink(missing_ok=True)
        if process.tallies is not None:
            process.tallies.path.unlink(missing_ok=True)
        if self._deaths.pop(process.reader.pid, None) is None and self._own is not None:
            self._unreaped[process.reader.pid] = process.clock + process.subprocesses
            while len(self._unreaped) > _UNREAPED:
                del self._unreaped[next(iter(self._unreaped))]
        self.journal.forget(process.reader.name)

    def _refuse(self, path: Path, error: Exception) -> None:
        self._refused.add(path)
        self._newly_refused += 1
        if isinstance(error, (Damaged, OSError)):
            log.warning("taskwatt left out a segment: %s", error)
        elif not self._failed:  # a bug of ours, which will meet the other segments as well
            self._failed = True
            log.warning("taskwatt failed to read a segment and leaves it out: %r", error, exc_info=error)

    def _forget_old_deaths(self) -> None:
        oldest = time.time_ns() - _DEATHS_KEPT_NS
        for pid, death in list(self._deaths.items()):
            if death.died_ns < oldest:
                self._deaths.pop(pid, None)

    @property
    def processes(self) -> list[tuple[int, ProcessClass, int, int, int]]:
        """(pid, process class, role, span mode, created wall ns) of every process that lives."""
        return [
            (
                one.reader.pid,
                one.process_class,
                one.reader.role,
                one.reader.counters().span_mode,
                one.reader.created_ns,
            )
            for one in self._processes.values()
        ]

    def ask_for_code(self, until_ns: int) -> None:
        """Every child names the line of its next attempts until then."""
        for process in self._processes.values():
            process.reader.ask_for_code(until_ns)

    def unsettled(self) -> list[Path]:
        """Segments of other processes that still hold something: neither settled nor left out."""
        own = self._own.path if self._own is not None else None
        return [path for path in self.directory.segments() if path != own and path not in self._refused]

    def close(self) -> None:
        """Let go of every segment."""
        while self._processes:
            _, process = self._processes.popitem()
            process.reader.close()

    def _discover(self) -> None:
        changed_ns = self.directory.changed_ns()
        if changed_ns == self._listed_ns:
            return
        # A clock of the file system stands still for some milliseconds: only then nothing can have come since.
        self._listed_ns = changed_ns if time.time_ns() - changed_ns > _SETTLED_NS else 0
        for path in self.directory.segments():
            if path in self._processes or path in self._refused:
                continue
            own = self._own is not None and path == self._own.path
            try:
                reader = SegmentReader(path, self._own.descriptor if own and self._own is not None else None)
            except (Damaged, OSError) as error:
                self._listed_ns = 0
                if not (isinstance(error, Damaged) and 0 <= time.time() - _modified(path) < _GRACE_S):
                    self._refuse(path, error)
                continue
            self._adopt(reader, own)

    def reclassify_own(self, process_class: ProcessClass) -> None:
        """What the draining process is, as it turned out."""
        for process in self._processes.values():
            if process.own:
                process.process_class = process_class

    def _adopt(self, reader: SegmentReader, own: bool) -> None:
        reader.skip_to(self.journal.highest.get(reader.name, 0) + 1)
        tallies = None if own else TallyReader(reader.path.with_suffix(SUFFIX))
        self._processes[reader.path] = _Process(reader, reader.process_class, own, tallies=tallies)

    def _keep(self, process: _Process, records: list[Drained], found: Collected) -> None:
        if not records:
            return
        self.journal.append(records)
        process.reader.commit()
        for record in records:
            observed = decode(record)
            if isinstance(observed, Attempt):
                found.settled.append(Settled(process.process_class, observed, process.own))
                process.booked += observed.cpu.total - observed.cpu.subprocesses
                process.subprocesses += observed.cpu.subprocesses
            elif isinstance(observed, Publish):
                found.published.append(observed)
            elif isinstance(observed, Stall):
                found.stalls.append(observed)
            else:
                found.dropped["record"] = found.dropped.get("record", 0) + 1

    def _account(self, process: _Process, alive: bool, running: InFlight | None, found: Collected) -> None:
        reader = process.reader
        name = process.process_class
        progress = reader.progress()
        idle = progress.startup_cpu - process.startup + progress.none_cpu - process.outlived
        process.startup, process.outlived = progress.startup_cpu, progress.none_cpu
        process.booked += idle
        self._account_cells(process, alive, found)
        clock = self._clock(process, alive)
        rest = max(0.0, clock - (running.cpu_at_start if process.own and running else process.booked))
        if not process.own:  # the owner charges its own CPU itself
            found.kernel[name] = found.kernel.get(name, 0.0) + clock - process.clock
            process.clock = clock
            idle += 0.0 if alive else clock - process.booked
            found.idle_cpu[name] = found.idle_cpu.get(name, 0.0) + idle
        if alive and (running is not None or not process.own):
            found.live.append(_live(process, running, rest))
        found.code.extend(reader.code())
        counters = reader.counters()
        spills = counters.spills_refused + reader.spills_lost
        damaged = reader.damaged + (process.tallies.damaged if process.tallies is not None else 0)
        now = (damaged, counters.strings_refused, spills, counters.hook_errors)
        for reason, new, old in zip(("damaged", "name", "span_data", "hook"), now, process.counted, strict=True):
            if new > old:
                found.dropped[reason] = found.dropped.get(reason, 0) + new - old
        process.counted = now

    def _read_tallies(self, process: _Process, alive: bool, found: Collected) -> None:
        """Event loops that ran in a child: figures, no CPU of its own."""
        read = process.tallies.read(ended=not alive) if process.tallies is not None else None
        if read is not None:
            found.counted.append(Counted(process.reader.name, read.tallies, read.anew, ended=not alive))

    def _account_unknown(self, found: Collected) -> None:
        """Children that were reaped and have no segment: the kernel's figure holds them, no row does."""
        if self._own is None or not self._deaths:
            return
        known: dict[int, ProcessClass] = {one.reader.pid: one.process_class for one in self._processes.values()}
        own = known.get(self._own.pid, "worker")
        with_segment = {path.name.partition("-")[0] for path in self.directory.segments()}
        for pid in list(self._deaths):
            if pid not in known and str(pid) not in with_segment:
                missed = self._deaths.pop(pid).cpu_s - self._unreaped.pop(pid, 0.0)
                found.kernel[own] = found.kernel.get(own, 0.0) + max(0.0, missed)

    def _account_cells(self, process: _Process, alive: bool, found: Collected) -> None:
        """What the cells gained: into the journal, then marked as taken, as with the ring."""
        read = process.reader.cells_read()
        cells = process.reader.cells(ended=not alive)
        gained = [one for cell in cells if (one := self._gained(process, cell, read)) is not None]
        if not gained:
            return
        self.journal.append(pack_taken(one) for one in gained)
        process.reader.commit_cells({cell.slot: cell.attempts for cell in cells})
        for one in gained:
            totals = totals_of(process.process_class, one)
            found.totals.append(totals)
            found.dropped["span_ring_full"] = found.dropped.get("span_ring_full", 0) + one.attempts
            process.booked += totals.cpu.total - totals.cpu.subprocesses
            process.subprocesses += totals.cpu.subprocesses

    def _gained(self, process: _Process, cell: Cell, read: Mapping[int, int]) -> Taken | None:
        """`read`: attempts that were taken by slot, also by a predecessor."""
        old = process.cells.get(cell.slot)
        process.cells[cell.slot] = cell
        name = process.reader.name
        if old is None:  # of what a predecessor took, only the number is known
            taken = max(read.get(cell.slot, 0), self.journal.taken.get((name, cell.slot), 0))
            part = min(1.0, taken / cell.attempts) if cell.attempts else 0.0
            firsts = int(cell.firsts * part)
            was = Cpu(*(seconds * part for seconds in cell.cpu))
        else:
            taken, firsts, was = old.attempts, old.firsts, old.cpu
        if cell.attempts <= taken:
            return None
        cpu = Cpu(*(now - before for now, before in zip(cell.cpu, was, strict=True)))
        new = cell.attempts - taken, cell.firsts - firsts
        return Taken(name, cell.slot, cell.task, cell.outcome, cell.state, *new, cell.attempts, cpu)

    def _clock(self, process: _Process, alive: bool) -> float:
        """CPU of the process itself; what its reaped subprocesses used is booked from its records."""
        death = None if alive else self._death(process.reader)
        if death is not None:
            return max(process.clock, death.cpu_s - process.subprocesses)
        clock = process.reader.cpu()
        return max(process.clock, process.booked if clock is None else clock)

    def _death(self, reader: SegmentReader) -> Death | None:
        """What was learned when this very process was reaped; not of an earlier one with its pid."""
        death = self._deaths.get(reader.pid)
        return death if death is not None and death.died_ns >= reader.created_ns else None

    def _settle_killed(self, process: _Process, found: Collected) -> Drained | None:
        """The record of the attempt that a dead process could not finish."""
        reader = process.reader
        running = reader.in_flight(ended=True)
        if running is None or reader.name in self.journal.settled:
            return None
        attempt = decode(running.record)
        if not isinstance(attempt, Attempt):
            found.dropped["record"] = found.dropped.get("record", 0) + 1
            return None
        death = self._death(reader)
        if death is not None:
            cpu_s = death.cpu_s - running.cpu_at_start - running.children_at_start
        else:
            cpu_s = (reader.cpu() or process.clock) - running.cpu_at_start
        seen_ns = time.time_ns() if self._ended_ns is None else self._ended_ns
        return killed(
            running.record,
            state=self._ended_as(attempt.task_id) or "FAILURE",
            died_ns=death.died_ns if death is not None else seen_ns,
            before_s=(running.cpu_at_body or 0.0) - running.cpu_at_start,
            cpu_s=cpu_s,
            max_rss=death.max_rss if death is not None else None,
        )


def totals_of(process_class: ProcessClass, taken: Taken) -> Totals:
    outcome, state = OUTCOMES[taken.outcome], STATES[taken.state]
    return Totals(process_class, taken.task, outcome, state, taken.attempts, taken.firsts, taken.cpu)


def _live(process: _Process, running: InFlight | None, unbooked_s: float) -> Live:
    attempt = decode(running.record) if running is not None else None
    age = max(0.0, time.time() - attempt.start_ns / 1e9) if attempt is not None else 0.0
    return Live(process.reader.pid, process.process_class, attempt.task if attempt else "", unbooked_s, age)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
