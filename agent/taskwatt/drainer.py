"""Takes finished attempts out of the segments of one agent, and settles for the processes that died.

Order matters: liveness is read before draining, so that a process seen dead has nothing more to say; records are
journaled before the ring gets its slots back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from taskwatt import clocks
from taskwatt.journal import Journal
from taskwatt.observations import OUTCOMES, STATES, Attempt, CodeSite, Cpu, Outcome, ProcessClass, Publish
from taskwatt.segments import AgentDirectory, Damaged, SegmentReader, SegmentWriter, layout
from taskwatt.segments.reader import Cell, Drained, InFlight
from taskwatt.segments.records import decode

log = logging.getLogger("taskwatt")

_GRACE_S = 2.0
_CANCELLED = OUTCOMES.index("cancelled")


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


@dataclass(slots=True)
class Collected:
    """One tick's worth of news."""

    settled: list[Settled] = field(default_factory=list[Settled])
    published: list[Publish] = field(default_factory=list[Publish])
    totals: list[Totals] = field(default_factory=list[Totals])
    idle_cpu: dict[ProcessClass, float] = field(default_factory=dict[ProcessClass, float])
    """CPU of children booked to no attempt: start-up, threads that outlived theirs, the end of their life."""
    kernel: dict[ProcessClass, float] = field(default_factory=dict[ProcessClass, float])
    """What the kernel charged the children since the last tick."""
    live: list[Live] = field(default_factory=list[Live])
    code: list[CodeSite] = field(default_factory=list[CodeSite])
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
    cells: dict[tuple[str, int, int], Cell] = field(default_factory=dict[tuple[str, int, int], Cell])
    counted: tuple[int, int, int, int] = (0, 0, 0, 0)


class Drainer:
    """Reads every segment in one agent directory; owns its journal."""

    def __init__(
        self,
        directory: AgentDirectory,
        journal: Journal,
        deaths: dict[int, Death],
        ended_as: Callable[[str], str | None],
        own: SegmentWriter | None = None,
    ) -> None:
        """`deaths`: reaped children by pid; taken out once settled.

        `ended_as`: Celery's state for a task id whose attempt was killed, if known.
        `own`: the draining process's segment; None when a dead agent's directory is being recovered.
        """
        self.directory = directory
        self.journal = journal
        self._deaths = deaths
        self._ended_as = ended_as
        self._own = own
        self._processes: dict[Path, _Process] = {}
        self._refused: set[Path] = set()

    def collect(self) -> Collected:
        """Everything new since the last call."""
        found = Collected()
        self._discover(found)
        for path, process in list(self._processes.items()):
            alive = self._alive(process)
            records = process.reader.drain(ended=not alive)
            if not alive:
                killed = self._settle_killed(process, found)
                if killed is not None:
                    records.append(killed)
            self._keep(process, records, found)
            self._account(process, alive, found)
            if not alive:
                process.reader.close()
                path.unlink(missing_ok=True)
                self._deaths.pop(process.reader.pid, None)
                self.journal.forget(process.reader.name)
                del self._processes[path]
        return found

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

    def all_ended(self) -> bool:
        """Has every process of this directory ended? (For recovery.)"""
        found = Collected()
        self._discover(found)
        return not any(self._alive(process) for process in self._processes.values())

    def close(self) -> None:
        for process in self._processes.values():
            process.reader.close()
        self._processes.clear()

    def _discover(self, found: Collected) -> None:
        for path in self.directory.segments():
            if path in self._processes or path in self._refused:
                continue
            own = self._own is not None and path == self._own.path
            try:
                reader = SegmentReader(path, self._own.descriptor if own and self._own is not None else None)
            except (Damaged, OSError) as error:
                if isinstance(error, Damaged) and 0 <= time.time() - _modified(path) < _GRACE_S:
                    continue  # perhaps still being made
                self._refused.add(path)
                found.dropped["segment"] = found.dropped.get("segment", 0) + 1
                log.warning("taskwatt left out a segment: %s", error)
                continue
            reader.skip_to(self.journal.highest.get(reader.name, 0) + 1)
            self._processes[path] = _Process(reader, reader.process_class, own)

    def _alive(self, process: _Process) -> bool:
        """By its lock; a process that closed all its descriptors has lost it and is looked up by pid and start time."""
        reader = process.reader
        if reader.alive():
            return True
        if reader.pid_namespace != clocks.pid_namespace():
            return False
        return clocks.start_time(reader.pid) == reader.start_ticks and not clocks.is_zombie(reader.pid)

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
                if record.sequence:
                    attempt_no = layout.RECORD.unpack(record.payload)[19]
                    process.reader.last_attempt_no = max(process.reader.last_attempt_no, attempt_no)
            elif isinstance(observed, Publish):
                found.published.append(observed)
            else:
                found.dropped["record"] = found.dropped.get("record", 0) + 1

    def _account(self, process: _Process, alive: bool, found: Collected) -> None:
        reader = process.reader
        name = process.process_class
        progress = reader.progress()
        idle = progress.startup_cpu - process.startup + progress.none_cpu - process.outlived
        process.startup, process.outlived = progress.startup_cpu, progress.none_cpu
        process.booked += idle
        self._account_cells(process, found)
        if not process.own:
            clock = self._clock(process, alive)
            found.kernel[name] = found.kernel.get(name, 0.0) + clock - process.clock
            process.clock = clock
            rest = clock - process.booked
            running = reader.in_flight() if alive else None
            if not alive:
                idle += rest
            else:
                started_ns = decoded.start_ns if (decoded := _attempt(running)) else 0
                task = running.record.task if running is not None else ""
                age = max(0.0, time.time() - started_ns / 1e9) if running is not None else 0.0
                found.live.append(Live(reader.pid, name, task, max(0.0, rest), age))
            found.idle_cpu[name] = found.idle_cpu.get(name, 0.0) + idle
        elif (running := reader.in_flight()) is not None:
            found.live.append(Live(reader.pid, name, running.record.task, 0.0, 0.0))
        found.code.extend(reader.code())
        counters = reader.counters()
        now = (reader.damaged, counters.strings_refused, counters.spills_refused, counters.hook_errors)
        for reason, new, old in zip(("damaged", "name", "span_data", "hook"), now, process.counted, strict=True):
            if new > old:
                found.dropped[reason] = found.dropped.get(reason, 0) + new - old
        process.counted = now

    def _account_cells(self, process: _Process, found: Collected) -> None:
        for cell in process.reader.cells():
            key = (cell.task, cell.outcome, cell.state)
            old = process.cells.get(key)
            attempts = cell.attempts - (old.attempts if old else 0)
            if attempts <= 0:
                continue
            was = old.cpu if old else (0.0,) * 6
            cpu = Cpu(*(new - before for new, before in zip(cell.cpu, was, strict=True)))
            firsts = cell.firsts - (old.firsts if old else 0)
            found.totals.append(
                Totals(
                    process.process_class, cell.task, OUTCOMES[cell.outcome], STATES[cell.state], attempts, firsts, cpu
                )
            )
            found.dropped["span_ring_full"] = found.dropped.get("span_ring_full", 0) + attempts
            process.cells[key] = cell
            process.booked += cpu.total - cpu.subprocesses
            process.subprocesses += cpu.subprocesses

    def _clock(self, process: _Process, alive: bool) -> float:
        """CPU of the process itself; what its reaped subprocesses used is booked from its records."""
        pid = process.reader.pid
        death = None if alive else self._deaths.get(pid)
        if death is not None:
            return max(process.clock, death.cpu_s - process.subprocesses)
        clock = clocks.process_cpu(pid)
        return max(process.clock, process.booked if clock is None else clock)

    def _settle_killed(self, process: _Process, found: Collected) -> Drained | None:
        """The record of the attempt that a dead process could not finish."""
        running = process.reader.in_flight()
        if running is None or process.reader.name in self.journal.settled:
            return None
        attempt = _attempt(running)
        if attempt is None:
            found.dropped["record"] = found.dropped.get("record", 0) + 1
            return None
        death = self._deaths.get(process.reader.pid)
        if death is not None:
            cpu_s = death.cpu_s - running.cpu_at_start - running.children_at_start
        else:
            cpu_s = (clocks.process_cpu(process.reader.pid) or process.clock) - running.cpu_at_start
        died_ns = death.died_ns if death is not None else time.time_ns()
        state = self._ended_as(attempt.task_id) or "FAILURE"
        fields = list(layout.RECORD.unpack(running.record.payload))
        fields[10] = max(0.0, (died_ns - attempt.start_ns) / 1e9)
        fields[13] = max(0.0, cpu_s)
        if death is not None:
            fields[21] = death.max_rss
        fields[27], fields[28] = _CANCELLED, STATES.index(state) if state in STATES else 0
        return running.record._replace(payload=layout.RECORD.pack(*fields))


def _attempt(running: InFlight | None) -> Attempt | None:
    observed = decode(running.record) if running is not None else None
    return observed if isinstance(observed, Attempt) else None


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
