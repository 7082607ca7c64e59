"""The CPU ledger of one agent: two axes, each summing to what the kernel charged.

Cells are (process class, task, outcome, activity). Settled CPU only grows; what is in flight is *pending*, what idle
processes hold since their last attempt is *none*: both are laid over the settled cells when somebody looks. Whatever
the kernel charged and no cell explains is *unattributed*, and shown.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from taskwatt.observations import OTHER, Activity, Attempt, Cpu, Outcome, ProcessClass

Key: TypeAlias = tuple[ProcessClass, str, Outcome, Activity]
AttemptKey: TypeAlias = tuple[ProcessClass, str, Outcome, str]

MAX_TASKS: Final = 500
"""Task names with cells of their own; the rest share `other`."""

BYTES_PER_SHARE: Final = 65536
"""The main process reads, decodes and pickles what it serves: a message this long weighs as much as one more
message."""

NO_TASK: Final = ""


class Served(NamedTuple):
    """What the main process did for one settled attempt."""

    process_class: ProcessClass
    task: str
    outcome: Outcome
    repeat: bool
    weight: float


def weight(attempt: Attempt) -> float:
    return 1.0 + attempt.body_size / BYTES_PER_SHARE


@dataclass(slots=True)
class Ledger:
    """Totals since the agent began."""

    cells: dict[Key, float] = field(default_factory=lambda: defaultdict(float))
    attempts: dict[AttemptKey, int] = field(default_factory=lambda: defaultdict(int))
    kernel: dict[ProcessClass, float] = field(default_factory=lambda: defaultdict(float))
    _tasks: set[str] = field(default_factory=set[str])

    def name(self, task: str) -> str:
        """`task`, or `other` when there are too many."""
        if task in self._tasks or task == NO_TASK:
            return task
        if len(self._tasks) >= MAX_TASKS:
            return OTHER
        self._tasks.add(task)
        return task

    def settle(self, process_class: ProcessClass, attempt: Attempt) -> None:
        task = self.name(attempt.task)
        self.attempts[process_class, task, attempt.outcome, attempt.state] += 1
        self.book_cpu(process_class, task, attempt.outcome, attempt.cpu)

    def book_cpu(self, process_class: ProcessClass, task: str, outcome: Outcome, cpu: Cpu) -> None:
        for activity, seconds in _activities(cpu):
            if seconds:
                self.book(process_class, task, outcome, activity, seconds)
        if cpu.subprocesses:
            self.kernel[process_class] += cpu.subprocesses

    def book(
        self, process_class: ProcessClass, task: str, outcome: Outcome, activity: Activity, seconds: float
    ) -> None:
        self.cells[process_class, task, outcome, activity] += seconds

    def apportion(
        self, process_class: ProcessClass, spent: Mapping[Activity, float], served: Iterable[Served]
    ) -> dict[tuple[str, Outcome, bool], float]:
        """Book the main process's CPU to the attempts it served, by weight; to nobody when it served none.

        Returns seconds by (task, outcome, was it a repeat) for the windows.
        """
        weights: dict[tuple[str, Outcome, bool], float] = defaultdict(float)
        for one in served:
            weights[self.name(one.task), one.outcome, one.repeat] += one.weight
        total = sum(weights.values())
        shares: dict[tuple[str, Outcome, bool], float] = defaultdict(float)
        for activity, seconds in spent.items():
            if seconds <= 0:
                continue
            if not total or activity == "agent":
                self.book(process_class, NO_TASK, "none", activity, seconds)
                continue
            for key, part in weights.items():
                share = seconds * part / total
                self.book(process_class, key[0], key[1], activity, share)
                shares[key] += share
        return shares

    def snapshot(self, live: Mapping[Key, float]) -> Snapshot:
        cells = dict(self.cells)
        for key, seconds in live.items():
            cells[key] = cells.get(key, 0.0) + seconds
        return Snapshot(cells, dict(self.kernel))

    def keep(self, live: Mapping[Key, float]) -> Kept:
        """As `snapshot`, to be looked at later."""
        return Kept(self.cells, array("d", self.cells.values()), live, dict(self.kernel))


class Kept(NamedTuple):
    """A snapshot in a tenth of its room: a minute of them, of 500 busy task types, would be 12 MB otherwise.

    A ledger never forgets a cell, so its cells in their order tell whose each figure is.
    """

    keys: Mapping[Key, float]
    """The ledger's own cells, which go on growing."""
    settled: array[float]
    live: Mapping[Key, float]
    kernel: Mapping[ProcessClass, float]

    def snapshot(self) -> Snapshot:
        cells = dict(zip(list(self.keys), self.settled, strict=False))
        for key, seconds in self.live.items():
            cells[key] = cells.get(key, 0.0) + seconds
        return Snapshot(cells, self.kernel)

    def plus(self, gained: Snapshot) -> Kept:
        """As if it had been known at that moment already, so that no window contains it."""
        added = Snapshot(self.live, self.kernel).plus(gained)
        return self._replace(live=added.cells, kernel=added.kernel)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The ledger at one moment, live parts included. Windows are differences of two."""

    cells: Mapping[Key, float]
    kernel: Mapping[ProcessClass, float]

    def since(self, earlier: Snapshot) -> Snapshot:
        cells = {key: seconds - earlier.cells.get(key, 0.0) for key, seconds in self.cells.items()}
        for key, seconds in earlier.cells.items():
            if key not in self.cells:
                cells[key] = -seconds
        _take_out_what_was_live(cells)
        kernel: dict[ProcessClass, float] = {
            name: seconds - earlier.kernel.get(name, 0.0) for name, seconds in self.kernel.items()
        }
        return Snapshot({key: seconds for key, seconds in cells.items() if abs(seconds) > 1e-9}, kernel)

    def plus(self, gained: Snapshot) -> Snapshot:
        cells, kernel = dict(self.cells), dict(self.kernel)
        for key, seconds in gained.cells.items():
            cells[key] = cells.get(key, 0.0) + seconds
        for name, seconds in gained.kernel.items():
            kernel[name] = kernel.get(name, 0.0) + seconds
        return Snapshot(cells, kernel)

    def unattributed(self, process_class: ProcessClass) -> float:
        """Kernel minus cells; slightly negative when clocks were read at different moments."""
        booked = sum(seconds for key, seconds in self.cells.items() if key[0] == process_class)
        return self.kernel.get(process_class, 0.0) - booked


def _take_out_what_was_live(cells: dict[Key, float]) -> None:
    """What was pending (or held by an idle process) before a span and was settled inside it was not burned in it.

    Such a cell shrinks; that much is taken from what it became: cells of its task, or where there are none, of its
    process class (the next task takes over what its process used while idle). So no cell of a span is negative, and
    the sums hold; what even the class does not have is a difference between two clocks.
    """
    for key in sorted(key for key, seconds in cells.items() if seconds < 0):
        before = -cells.pop(key)
        for kin in (2, 1) if key[1] else (1,):
            became = [other for other, seconds in cells.items() if other[:kin] == key[:kin] and seconds > 0]
            total = sum(cells[other] for other in became)
            if not total:
                continue
            taken = min(before, total)
            for other in became:
                cells[other] -= taken * cells[other] / total
            before -= taken


def _activities(cpu: Cpu) -> tuple[tuple[Activity, float], ...]:
    return (
        ("business", cpu.business + cpu.subprocesses),
        ("serialization", cpu.serialization),
        ("gc", cpu.gc),
        ("framework", cpu.framework),
        ("agent", cpu.agent),
    )
