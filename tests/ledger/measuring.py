"""One worker's life, measured twice: by the agent, and by the kernel and the tasks themselves.

Three witnesses, none of which knows of the others:

- the **kernel**: `wait4` on the worker's main process when it has ended, which covers the children it had reaped and
  what those had reaped;
- the **tasks** (tests/ledger/tasks.py): their own thread's CPU clock around the work itself;
- the **ledger**: `taskwatt.cpu.time` as a real OTLP receiver got it in the worker's last flush.

What no witness can say apart from the agent is what Celery itself used (receive, decode headers, acknowledge, fork,
start up): that truth is the kernel's figure minus what the tasks noted. It is called the rest, and compared as one.
"""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import wait_for
from tests.support.receiver import Receiver
from tests.support.worker import Worker

APP = "tests.ledger.tasks"
ACTIVITIES = ("business", "serialization", "gc")
"""What tasks can note themselves."""
REST = frozenset({"framework", "agent"})


@dataclass(frozen=True)
class Measured:
    """CPU seconds of one worker, from start to end."""

    kernel_s: float
    """Main and children, as the kernel charged them."""
    reported_s: float
    """`taskwatt.process.cpu.time`."""
    cells: Mapping[tuple[str, str, str], float]
    """(task, outcome, activity) -> `taskwatt.cpu.time`."""
    truth: Mapping[tuple[str, str, str], float]
    """The same, as the tasks noted it; has no rows for the rest."""
    attempts: Mapping[tuple[str, str], int]
    """(task, outcome) -> attempts."""

    def ledger(self, task: str | None = None, outcome: str | None = None, activity: str | None = None) -> float:
        return _sum(self.cells, task, outcome, activity)

    def noted(self, task: str | None = None, outcome: str | None = None, activity: str | None = None) -> float:
        return _sum(self.truth, task, outcome, activity)

    @property
    def explained_s(self) -> float:
        """Everything that the ledger booked; what it calls unattributed is not."""
        return self.ledger() - self.ledger(activity="unattributed")

    @property
    def unattributed(self) -> float:
        """Share of the kernel's figure that no row explains; negative when rows claim more than was used."""
        return 1 - self.explained_s / self.kernel_s

    def activity_error(self, truth: Mapping[str, float]) -> float:
        """sum|ledger - truth| / (2 total) over the activities, the rest being what `truth` leaves of the kernel's."""
        expected = {**truth, "rest": self.kernel_s - sum(truth.values())}
        found: dict[str, float] = defaultdict(float)
        for (_, _, activity), seconds in self.cells.items():
            found["rest" if activity in REST else activity] += seconds
        return sum(abs(found[key] - expected.get(key, 0.0)) for key in {*found, *expected}) / (2 * self.kernel_s)

    def __str__(self) -> str:
        """Shown when an assertion fails, and by `pytest -rP`."""
        lines = [
            f"kernel {self.kernel_s:.3f} s, reported {self.reported_s:.3f} s, unattributed {self.unattributed:.2%}"
        ]
        for key in sorted({*self.cells, *self.truth}):
            name = " ".join(part or "-" for part in key)
            lines.append(f"{name:50} ledger {self.cells.get(key, 0.0):8.4f}   noted {self.truth.get(key, 0.0):8.4f}")
        return "\n".join(lines)


def _sum(
    table: Mapping[tuple[str, str, str], float], task: str | None, outcome: str | None, activity: str | None
) -> float:
    wanted = (task, outcome, activity)
    return sum(
        seconds
        for key, seconds in table.items()
        if all(one is None or one == part for one, part in zip(wanted, key, strict=True))
    )


@dataclass
class Measuring:
    """A worker under measurement: send to `worker`, wait for `settled`, then `end`."""

    worker: Worker
    receiver: Receiver
    truth: Path

    def settled(self, count: int) -> None:
        """Wait until so many attempts have been reported as settled."""
        wait_for(lambda: self.receiver.total("celery.task.attempts") >= count, 90, f"{count} attempts")

    def end(self) -> Measured:
        """SIGTERM, and everything that is known of the worker's life."""
        self.worker.send_signal(signal.SIGTERM)
        kernel_s = _wait4(self.worker)
        metric = self.receiver.metric("taskwatt.cpu.time")
        assert metric is not None, self.worker.log
        assert not self.worker.warnings
        cells: dict[tuple[str, str, str], float] = defaultdict(float)
        for point in metric.points:
            name = tuple(str(point.attributes[key]) for key in _KEYS)
            cells[name[0], name[1], name[2]] += point.value
        attempts: dict[tuple[str, str], int] = defaultdict(int)
        settled = self.receiver.metric("celery.task.attempts")
        for point in settled.points if settled is not None else ():
            attempts[point.attributes[_KEYS[0]], point.attributes[_KEYS[1]]] += int(point.value)
        measured = Measured(
            kernel_s, self.receiver.total("taskwatt.process.cpu.time"), dict(cells), self.noted(), dict(attempts)
        )
        print(measured)
        return measured

    def noted(self) -> dict[tuple[str, str, str], float]:
        """What the tasks have noted so far."""
        found: dict[tuple[str, str, str], float] = defaultdict(float)
        for path in self.truth.glob("*.txt"):
            for line in path.read_text().splitlines():
                task, outcome, activity, seconds = line.split()
                found[task, outcome, activity] += float(seconds)
        return dict(found)


_KEYS = ("taskwatt.task.name", "taskwatt.task.outcome", "taskwatt.cpu.activity")

Measure = Callable[..., Measuring]


def _wait4(worker: Worker, patience_s: float = 60.0) -> float:
    """CPU of the worker and of all that it had reaped, from the kernel, at its end."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        pid, status, usage = os.wait4(worker.pid, os.WNOHANG)
        if pid:
            worker.process.returncode = os.waitstatus_to_exitcode(status)
            return usage.ru_utime + usage.ru_stime
        time.sleep(0.02)
    raise AssertionError(f"the worker did not end:\n{worker.log}")
