"""One agent: drains, keeps the ledger, judges, and tells.

Lives in the process that owns a directory, on a thread of its own. A tick a second (every third while nothing happens),
one way: segments -> observations -> ledger and windows -> rules -> incidents -> export and files.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Final

from taskwatt import clocks, rules
from taskwatt.charging import Charging, live_cells, running
from taskwatt.code_watch import CodeWatch
from taskwatt.drainer import Collected, Death, Drainer, Live
from taskwatt.export.history import HistoryWriter
from taskwatt.export.pipeline import Pipeline
from taskwatt.gauges import Reading
from taskwatt.incidents import Incident, Incidents
from taskwatt.journal import Journal
from taskwatt.observations import Outcome, ProcessClass, Tallies
from taskwatt.pacing import Pace
from taskwatt.report.triage import Document, ProcessDescription, document
from taskwatt.segments import AgentDirectory, RuntimeDirectory, SegmentWriter, layout
from taskwatt.settings import Settings
from taskwatt.windows import LoopWindow, Window
from taskwatt.windows.capacity import Capacity
from taskwatt.windows.ledger import NO_TASK, Kept, Ledger, Served, Snapshot, weight
from taskwatt.windows.loops import LoopWindows
from taskwatt.windows.tasks import TaskWindows

log = logging.getLogger("taskwatt")

TICK_S: Final = 1.0
WINDOWS: Final = (10, 60)
VERDICTS_EVERY_S: Final = 60.0
RECOVER_EVERY_S: Final = 30.0
_MODES: Final = {0: "none yet", 1: "own", 2: "provider", 3: "official"}


class Agent:
    """Start it in the owning process; never use it after a fork."""

    def __init__(
        self,
        runtime: RuntimeDirectory,
        directory: AgentDirectory,
        segment: SegmentWriter,
        settings: Settings,
        process_class: ProcessClass,
        service: str,
        deaths: dict[int, Death],
        ended_as: Callable[[str], str | None],
        received: Callable[[], Mapping[str, float]],
        tallies: Callable[[], Tallies | None] = lambda: None,
    ) -> None:
        """`received`: serialization CPU of the owning process by task type since the last call (decoding messages).

        `tallies`: what the event loops of this process have counted.
        """
        self._runtime, self._directory, self._segment = runtime, directory, segment
        self._class: ProcessClass = process_class
        self._latest = directory.latest
        self._ended_as = ended_as
        self.ledger = Ledger()
        self.dropped: dict[str, int] = {}
        self.slots = 0
        self.attempts_carrier = ""
        """How attempts are measured: a sentence."""
        self._tasks = TaskWindows()
        self._charging = Charging(process_class, self.ledger, self._tasks, received, tallies)
        self.loops = LoopWindows(WINDOWS)
        self._capacity = Capacity()
        self._incidents = Incidents(time.time_ns)
        self._journal = Journal(directory.path)
        self._drainer = Drainer(directory, self._journal, deaths, ended_as, segment)
        self._history = HistoryWriter(runtime.history, directory.path.name)
        self._pipeline = Pipeline(
            self,
            self._journal,
            self._history,
            service=service,
            excluded=lambda task: any(fnmatchcase(task, pattern) for pattern in settings.excluded_tasks),
            incident_of=lambda task: self._incident_ids.get(task),
            code_of=lambda task: self._code.sites.get(task),
            environ=os.environ,
        )
        self._incident_ids: dict[str, str] = {}
        self._code = CodeWatch(self._drainer.ask_for_code)
        self._snapshots: list[tuple[float, Kept]] = []
        self._drops: list[int] = []
        self._pace = Pace(max(WINDOWS))
        self._cores: dict[int, float] = {}
        self._found = False
        """Did the last judgement find anything? Then the next ones count towards an incident."""
        self._last_clock: dict[int, tuple[float, float]] = {}
        self._verdicts_at = self._recover_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="taskwatt", daemon=True)
        self._window: Window | None = None
        self._document: Document = document(windows={}, findings=(), incidents=(), processes=())

    # What the instruments read.

    @property
    def readings(self) -> Sequence[Reading]:
        host = self._window.host if self._window is not None else None
        own = [Reading("taskwatt.cpu.effective", host.effective_cpus, {})] if host is not None else []
        return [*self._pipeline.readings, *own]

    @property
    def process_class(self) -> ProcessClass:
        return self._class

    @property
    def loop_windows(self) -> Sequence[LoopWindow]:
        return self._window.loops if self._window is not None else ()

    def incidents_active(self) -> Iterable[tuple[str, str]]:
        return [(one.finding.cause, one.severity) for one in self._incidents.active]

    def unattributed(self) -> Iterable[tuple[ProcessClass, float]]:
        if not self._snapshots:
            return []
        snapshot = self._snapshots[-1][1].snapshot()
        return [(name, max(0.0, snapshot.unattributed(name))) for name in list(snapshot.kernel)]

    def run_delay(self) -> Iterable[tuple[str, float]]:
        total = self._capacity.total_run_delay
        return [] if total is None else [(self._class, total)]

    # What somebody in this process may look at, from any thread.

    @property
    def window(self) -> Window | None:
        """The newest of the shortest windows; None before the first judgement."""
        return self._window

    @property
    def document(self) -> Document:
        """The newest triage document; of its shape, but empty, before the first judgement."""
        return self._document

    @property
    def incidents(self) -> Sequence[Incident]:
        """Those that are open."""
        return self._incidents.active

    # Life.

    def reclassify(self, process_class: ProcessClass) -> None:
        """From the next tick on; what was booked stays where it was."""
        self._class = self._charging.process_class = process_class

    def start(self) -> None:
        self._charging.charge([], [])  # what the process used until now served nobody
        self._pipeline.start()
        self._thread.start()

    def add_probe(self, probe: Callable[[], Iterable[Reading]]) -> None:
        self._pipeline.add_probe(probe)

    def stop(self) -> None:
        """Drain once more, send what is left within the exit bound, and clear up unless something still waits."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join(2.0)
        settled = not self._thread.is_alive()
        if settled:  # or a tick is stuck, and what it did not settle is left to a successor
            self._guarded(self.tick)
        self._tell_verdicts(force=True)
        finished = self._pipeline.stop() and settled
        self._drainer.close()
        self._journal.close()
        unsettled = [*self._drainer.unsettled(), *self._directory.inherited.glob("*")]
        self._segment.close()
        if finished and not unsettled:
            self._directory.remove()

    def give_back_descriptors(self) -> None:
        """In a process forked from ours, where nothing else of this object may be touched: close what it inherited."""
        self._drainer.close()
        self._journal.close_inherited()

    def _run(self) -> None:
        due = time.monotonic() + TICK_S
        while not self._stop.wait(max(0.05, due - time.monotonic())):
            due = max(due + TICK_S, time.monotonic())
            self._guarded(self.beat)

    def _guarded(self, evaluate: Callable[[float], None]) -> None:
        try:
            evaluate(time.monotonic())
        except Exception as error:
            if not self.dropped.get("tick"):
                log.warning("taskwatt failed to evaluate one tick: %r", error, exc_info=error)
            self.dropped["tick"] = self.dropped.get("tick", 0) + 1

    def beat(self, now: float) -> None:
        """A second has passed (`now`: monotonic seconds): a tick, unless it would find nothing."""
        if not self._pace.rests(self._drainer.stirred):
            self.tick(now)

    def tick(self, now: float) -> None:
        """Everything once. `now`: monotonic seconds."""
        self._skip(now, self._pace.begin())
        self._charging.process_class = self._class
        self._drainer.reclassify_own(self._class)
        if now >= self._recover_at:
            self._recover_at = now + RECOVER_EVERY_S
            self._recover()
        with self._pipeline.folding:
            collected = self._drainer.collect()
            served = self._fold(collected)
            charged = self._charging.charge(collected.live, served, final=self._stop.is_set())
            self._fold_loops(collected)
            self._pipeline.tick()
        for process_class, seconds in collected.idle_cpu.items():
            self.ledger.book(process_class, NO_TASK, "none", "framework", seconds)
        for process_class, seconds in collected.kernel.items():
            self.ledger.kernel[process_class] += seconds
        self._tasks.roll()
        pids = [os.getpid(), *(one.pid for one in collected.live if one.pid != os.getpid())]
        self._capacity.sample(now, pids)
        self._measure_cores(now, collected.live)
        self._code.note(collected.code, now)
        live = live_cells(collected.live, self.ledger)
        for key, seconds in charged.items():
            live[key] = live.get(key, 0.0) + seconds
        self._keep(now, self.ledger.keep(live), sum(self.dropped.values()))
        ran = bool(served) or any(one.task for one in collected.live) or self.loops.blocked
        told = self._found or bool(self._incidents.active)
        match self._pace.step(now, happened=ran or told, cores=self._cores):
            case "judge":
                self._judge(now, collected.live)
            case "write":
                self._document["agent"]["updated_ns"] = time.time_ns()
                self._publish_verdicts(now)
            case "touch":
                with suppress(OSError):
                    os.utime(self._latest)  # whoever recovers a dead agent asks when it last lived

    def _skip(self, now: float, seconds: int) -> None:
        """Nothing ended in so many seconds before this one, or what did is counted as of now."""
        for ago in range(seconds, 0, -1):
            self._tasks.roll()
            self.loops.roll()
            self._keep(now - ago * TICK_S, self._snapshots[-1][1], self._drops[-1])

    def _keep(self, now: float, kept: Kept, drops: int) -> None:
        self._snapshots.append((now, kept))
        self._drops.append(drops)
        del self._snapshots[: -max(WINDOWS) - 1], self._drops[: -max(WINDOWS) - 1]

    def _judge(self, now: float, live: Sequence[Live]) -> None:
        """From windows to findings, incidents, and the document that says so."""
        latest = self._snapshots[-1][1].snapshot()
        windows = {float(seconds): self._window_of(seconds, latest, live) for seconds in WINDOWS}
        self._window = windows[float(WINDOWS[0])]
        findings = rules.evaluate(windows)
        self._found = any(finding.found for finding in findings)
        transitions = self._incidents.observe(findings, self._window.host.effective_cpus)
        self._incident_ids = {one.finding.task: one.id for one in self._incidents.active if one.finding.task}
        for transition in transitions:
            self._pipeline.tell(transition, self._window)
            self._verdicts_at = 0.0
        self._code.look(now, self._window, live, self._cores)
        self._document = document(
            windows=windows,
            findings=findings,
            incidents=self._incidents.active,
            processes=self._describe(live),
            carriers=[*self.loops.carriers, *filter(None, [self.attempts_carrier])],
        )
        self._document["agent"] = {
            "identity": self._directory.path.name,
            "updated_ns": time.time_ns(),
            "pid": os.getpid(),
        }
        self._publish_verdicts(now)

    # Folding.

    def _fold(self, collected: Collected) -> list[Served]:
        served: list[Served] = []
        for process_class, attempt, own in collected.settled:
            outcome = self._tasks.outcome(attempt)
            if outcome != attempt.outcome:
                attempt = attempt._replace(outcome=outcome)
            task = self.ledger.name(attempt.task)
            self.ledger.settle(process_class, attempt)
            self._tasks.fold(process_class, task, attempt)
            self._pipeline.record(task, attempt)
            served.append(Served(process_class, task, outcome, not attempt.first, weight(attempt)))
            if own:
                self._charging.told(attempt.cpu.total - attempt.cpu.subprocesses)
        for one in collected.totals:
            task = self.ledger.name(one.task)
            self.ledger.attempts[one.process_class, task, one.outcome, one.state] += one.attempts
            self.ledger.book_cpu(one.process_class, task, one.outcome, one.cpu)
            self._tasks.add_cells(one.process_class, task, one.outcome, one.attempts, one.firsts, one.cpu.total)
            served.append(Served(one.process_class, task, one.outcome, one.firsts == 0, float(one.attempts)))
        for reason, count in collected.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count
        self.dropped["journal"] = self._pipeline.lost
        self.dropped["history"] = self._history.dropped
        return served

    def _fold_loops(self, collected: Collected) -> None:
        if self._charging.work.tallies is not None:
            self.loops.fold("", self._charging.work.tallies)
        for one in collected.counted:
            self.loops.fold(one.source, one.tallies, anew=one.anew)
            if one.ended:
                self.loops.forget(one.source)
        self.loops.stalled(collected.stalls)
        self.loops.roll()

    def _window_of(self, slices: int, latest: Snapshot, live: Sequence[Live]) -> Window:
        now, _ = self._snapshots[-1]
        then, earlier = self._snapshots[max(0, len(self._snapshots) - 1 - slices)]
        delta = latest.since(earlier.snapshot())
        seconds = max(now - then, 1e-9) if len(self._snapshots) > 1 else 0.0
        table: dict[tuple[str, Outcome, str], float] = defaultdict(float)
        by_task: dict[tuple[ProcessClass, str], dict[Outcome, float]] = defaultdict(lambda: defaultdict(float))
        for (process_class, task, outcome, activity), value in delta.cells.items():
            table[task, outcome, activity] += value
            by_task[process_class, task][outcome] += value
        kernel = sum(delta.kernel.values())
        coroutines = self.loops.coroutines(slices)
        code = self.loops.code(slices) | self._code.sites
        in_flight = running(live, self.ledger)
        for name, number in self._charging.work.open.items():
            in_flight.setdefault((self._class, self.ledger.name(name)), (number, 0.0))
        return Window(
            seconds=seconds,
            process_class=self._class,
            tasks=self._tasks.over(slices, by_task, in_flight, code, self._code.missing),
            host=self._capacity.window(float(slices)),
            cpu_total=kernel,
            cpu_none=sum(value for key, value in table.items() if key[1] == "none"),
            cpu_unattributed=kernel - sum(table.values()),
            slots=self.slots,
            ledger=dict(table),
            coroutines=coroutines,
            loops=self.loops.over(slices),
            interpreter=self.loops.interpreter(slices),
            rows=frozenset(map(self.ledger.name, self._charging.work.rows)),
            dropped=self._drops[-1] - self._drops[max(0, len(self._drops) - 1 - slices)],
        )

    # Telling.

    def _measure_cores(self, now: float, live: Sequence[Live]) -> None:
        """CPUs each process used since the last tick."""
        before, self._last_clock = self._last_clock, {}
        self._cores = {}
        for pid in {os.getpid(), *(one.pid for one in live)}:
            clock = clocks.process_cpu(pid) or 0.0
            self._last_clock[pid] = now, clock
            if pid in before and now > before[pid][0]:
                self._cores[pid] = (clock - before[pid][1]) / (now - before[pid][0])

    def _describe(self, live: Sequence[Live]) -> list[ProcessDescription]:
        found: list[ProcessDescription] = []
        for pid, process_class, role, mode, created_ns in self._drainer.processes:
            kind = "child" if role == layout.CHILD else "main" if len(live) else "single"
            name = _MODES.get(mode, "unknown")
            found.append(ProcessDescription(pid, process_class, kind, self._cores.get(pid), name, True, created_ns))
        return found

    def _publish_verdicts(self, now: float) -> None:
        temporary = self._directory.path / "latest.tmp"
        try:
            temporary.write_text(json.dumps(self._document))
            temporary.replace(self._latest)
        except OSError as error:
            if not self.dropped.get("latest"):
                log.warning("taskwatt cannot write to %s and drops what does not fit: %s", self._directory.path, error)
            self.dropped["latest"] = self.dropped.get("latest", 0) + 1
        if now >= self._verdicts_at:
            self._verdicts_at = now + VERDICTS_EVERY_S
            self._tell_verdicts()

    def _tell_verdicts(self, force: bool = False) -> None:
        shown = self._document
        if self._window is not None and (force or shown["findings"]):
            self._history.verdicts(shown, dict(self._pipeline.resource.attributes))

    # Recovery.

    def _recover(self) -> None:
        """Take over what dead agents left: fold it into this ledger, send what they had not sent."""
        for other in self._runtime.agents():
            if other.path == self._directory.path:
                continue
            try:
                if not self._recover_one(other):
                    self._recover_at = min(self._recover_at, time.monotonic() + 2 * TICK_S)
            except Exception as error:
                log.warning("taskwatt could not recover %s: %r", other.path.name, error)
                self.dropped["recovery"] = self.dropped.get("recovery", 0) + 1

    def _recover_one(self, other: AgentDirectory) -> bool:
        """False when it should be tried again soon: its processes are still dying."""
        from taskwatt.recovery import recover

        found = recover(other, self._directory, self._ended_as)
        if found is None:
            return True
        if not found.complete:
            return False
        with self._pipeline.folding:
            self._inherit(found.collected)
            self._pipeline.inherit(found.journals)
        log.info("taskwatt recovered %d attempts of an agent that had died", len(found.collected.settled))
        return True

    def _inherit(self, collected: Collected) -> None:
        """Into the totals and into no window: whatever it was that happened, it is not happening now."""
        before = self.ledger.snapshot({})
        for process_class, attempt, _ in collected.settled:
            attempt = attempt._replace(outcome=self._tasks.outcome(attempt))
            self.ledger.settle(process_class, attempt)
            self._pipeline.record(self.ledger.name(attempt.task), attempt)
        for one in collected.totals:
            task = self.ledger.name(one.task)
            self.ledger.attempts[one.process_class, task, one.outcome, one.state] += one.attempts
            self.ledger.book_cpu(one.process_class, task, one.outcome, one.cpu)
        for process_class, seconds in collected.kernel.items():
            self.ledger.kernel[process_class] += seconds
        for reason, count in collected.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count
        gained = self.ledger.snapshot({}).since(before)
        self._snapshots = [(at, kept.plus(gained)) for at, kept in self._snapshots]
