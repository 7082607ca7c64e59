"""Books the CPU of the agent's own process: to what ran in it, to the attempts it served, or to nobody."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from taskwatt.drainer import Live
from taskwatt.meter import meter
from taskwatt.observations import Activity, ProcessClass, Tallies
from taskwatt.own_work import OwnWork
from taskwatt.windows.ledger import NO_TASK, Key, Ledger, Served
from taskwatt.windows.tasks import TaskWindows


class Charging:
    """Owned by the tick."""

    def __init__(
        self,
        process_class: ProcessClass,
        ledger: Ledger,
        tasks: TaskWindows,
        received: Callable[[], Mapping[str, float]],
        tallies: Callable[[], Tallies | None],
    ) -> None:
        """`received`: serialization CPU by task type since the last call (decoding messages)."""
        self.work = OwnWork(tallies)
        self.process_class: ProcessClass = process_class
        self._ledger, self._tasks, self._received = ledger, tasks, received
        self._serves = False
        """Has an attempt settled here? Then this process's CPU is for attempts, whatever else it does."""
        self._clock = self._unbooked = 0.0
        self._charged: dict[Activity, float] = {"agent": 0.0, "serialization": 0.0, "gc": 0.0}
        self._decoded: dict[str, float] = {}
        """By task type: what decoding took of messages of which no attempt has settled yet."""

    def told(self, seconds: float) -> None:
        """An attempt that ran in this very process said what it had used."""
        self._unbooked -= seconds

    def charge(self, live: Iterable[Live], served: Sequence[Served], *, final: bool = False) -> dict[Key, float]:
        """Book what was used since the last call; returned is what is live, as cells.

        An attempt that runs in this very process (the solo pool) says itself what it used; until then it is pending,
        and the process's other activities wait for their share if they must. So it is with requests that are open.
        `final`: there is no later call.
        """
        self.work.read()
        before, self._clock = self._clock, time.process_time()
        used = self._clock - before
        self._ledger.kernel[self.process_class] += used
        billed = self.work.book(self.process_class, self._ledger, self._tasks)
        pending = self._pending()
        self._serves = self._serves or bool(served)
        if not self._serves and self.work.tells_threads_apart():
            agent = meter.agent + self.work.agent_s
            self._ledger.book(self.process_class, NO_TASK, "none", "agent", max(0.0, agent - self._charged["agent"]))
            self._charged["agent"] = max(agent, self._charged["agent"])
            live_cells = pending | self.work.around(self.process_class, self._ledger, final=final)
            self._unbooked = sum(live_cells.values())
            return live_cells
        self._unbooked += used - billed
        running = sum(one.unbooked_s for one in live if one.pid == os.getpid()) + sum(pending.values())
        # A loop that runs already may be in the middle of a step, which will be billed.
        held = 0.0 if self._serves else self.work.unexplained_of_loops
        self._apportion(running + held, served, final)
        self.work.begin(held)
        for task, seconds in self._decoded.items():
            pending[self.process_class, task, "pending", "serialization"] = seconds
        return pending

    def _pending(self) -> dict[Key, float]:
        cells: dict[Key, float] = {}
        for name, seconds in self.work.pending.items():
            key: Key = (self.process_class, self._ledger.name(name), "pending", "business")
            cells[key] = cells.get(key, 0.0) + seconds
        return cells

    def _apportion(self, running: float, served: Sequence[Served], final: bool) -> None:
        """Among the attempts that were served, all that nobody else pays for."""
        decoded = self._decoding_of({one.task for one in served}, final)
        waiting = sum(self._decoded.values())
        left = max(0.0, self._unbooked - running - waiting)
        self._unbooked -= left
        serialization, collected = meter.outside_attempts()
        activities: dict[Activity, float] = {
            "agent": meter.agent + self.work.agent_s,
            "serialization": serialization - waiting,
            "gc": collected,
        }
        spent: dict[Activity, float] = {}
        for activity, seconds in activities.items():
            spent[activity] = max(0.0, min(seconds - self._charged[activity], left))
            self._charged[activity] += spent[activity]
            left -= spent[activity]
        spent["framework"] = left
        for task, seconds in decoded.items():
            part = min(seconds, spent["serialization"])
            spent["serialization"] -= part
            self._share({"serialization": part}, [one for one in served if one.task == task])
        self._share(spent, served)

    def _decoding_of(self, settled: set[str], final: bool) -> dict[str, float]:
        """What decoding their messages took, of the task types that settled; the rest goes on waiting for its own."""
        for task, seconds in self._received().items():
            name = self._ledger.name(task)
            self._decoded[name] = self._decoded.get(name, 0.0) + seconds
        ready = [task for task in self._decoded if task in settled or final]
        return {task: self._decoded.pop(task) for task in ready}

    def _share(self, spent: Mapping[Activity, float], served: Sequence[Served]) -> None:
        self._tasks.add_share(self.process_class, self._ledger.apportion(self.process_class, spent, served))


def live_cells(live: Iterable[Live], ledger: Ledger) -> dict[Key, float]:
    """What children hold that no record explains yet."""
    cells: dict[Key, float] = {}
    for one in live:
        key: Key
        if one.task:
            key = (one.process_class, ledger.name(one.task), "pending", "business")
        else:
            key = (one.process_class, NO_TASK, "none", "framework")
        cells[key] = cells.get(key, 0.0) + one.unbooked_s
    return cells


def running(live: Iterable[Live], ledger: Ledger) -> dict[tuple[ProcessClass, str], tuple[int, float]]:
    """How many attempts of each task run, and the age of the oldest."""
    found: dict[tuple[ProcessClass, str], tuple[int, float]] = {}
    for one in live:
        if one.task:
            key = (one.process_class, ledger.name(one.task))
            count, oldest = found.get(key, (0, 0.0))
            found[key] = (count + 1, max(oldest, one.running_s))
    return found
