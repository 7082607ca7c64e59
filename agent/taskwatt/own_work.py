"""What the agent's own process does besides Celery attempts: steps of event loops, requests, labelled blocks.

Carriers say what each coroutine type and each row of `accounts` used; here it is booked. Around that lies CPU that no
step explains, and where loops run it is told apart: of a loop's thread it is the loop's machinery (*framework*), of the
other threads that Python knows it is work of no task (*business*, of *none*), and what no clock explains stays
unattributed.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from taskwatt import accounts
from taskwatt.clocks import ThreadClocks
from taskwatt.observations import Outcome, ProcessClass, RowTally, Tallies
from taskwatt.windows.ledger import NO_TASK, Key, Ledger
from taskwatt.windows.tasks import TaskWindows

log = logging.getLogger("taskwatt")

_NOTHING: Final = Tallies({}, {}, {})
_LEAST_S: Final = 1e-5
"""What is less is the rounding of figures of which others were taken away; it adds up until it is more."""
_LOOP_READINGS: Final = 10
_THREAD_READINGS: Final = 60
"""Ticks over which a figure must not have gone below what is booked of it: longer than what runs in a thread pool."""


class Rest:
    """CPU that is not explained yet: by a step or an item that still runs, or never.

    The figure rises while something runs and falls when that is billed to whom it belongs. What it has not gone below
    for a while will not be billed any more, and is booked; the rest is live.
    """

    def __init__(self, readings: int) -> None:
        self._readings: deque[float] = deque(maxlen=readings)
        self._offset = 0.0
        self._booked = 0.0

    def read(self, figure: float, *, running: bool, final: bool = False) -> tuple[float, float]:
        """(to be booked now, live) of a figure in seconds since the process began.

        `running`: it surely holds something that will be billed. `final`: there is no later reading.
        """
        level = max(0.0, figure + self._offset)
        if not running:
            self._readings.append(level)
        if len(self._readings) == self._readings.maxlen and max(self._readings) < self._booked:
            # More was booked than there was: a thread had ended before its clock was read again.
            self._offset += self._booked - max(self._readings)
            self._readings.clear()
        certain = level if final else min(self._readings) if len(self._readings) == self._readings.maxlen else 0.0
        gained = max(0.0, certain - self._booked)
        self._booked += gained
        return gained, max(0.0, level - self._booked)

    def begin(self, figure: float) -> None:
        """All until now was booked by somebody else."""
        self._readings.clear()
        self._offset, self._booked = -figure, 0.0


class OwnWork:
    """Read once a tick, on the agent's thread."""

    def __init__(self, tallies: Callable[[], Tallies | None]) -> None:
        """`tallies`: what an integration has counted; None when there is none. One that fails is not asked again."""
        self._source: Callable[[], Tallies | None] | None = tallies
        self.tallies: Tallies | None = None
        self.pending: dict[str, float] = {}
        """CPU seconds of open rows, by name."""
        self.open: dict[str, int] = {}
        """How many of them are open."""
        self._threads = ThreadClocks()
        self._rows: Mapping[tuple[str, Outcome], RowTally] = {}
        self._booked: dict[str, float] = {}
        """Of coroutine types."""
        self._booked_rows: dict[tuple[str, Outcome], tuple[int, float]] = {}
        self._before = _NOTHING
        self._loops_s = 0.0
        """CPU of the loops' threads while loops ran, also of those that are no longer told."""
        self._machinery = Rest(_LOOP_READINGS)
        self._others = Rest(_THREAD_READINGS)
        self._begun = False

    @property
    def rows(self) -> frozenset[str]:
        """Names of requests and labelled blocks, open or closed."""
        return frozenset(name for name, _ in self._rows)

    @property
    def agent_s(self) -> float:
        """CPU seconds of the agent's threads."""
        return self._threads.agent

    def read(self) -> None:
        """Ask everybody, clocks last but for the process's own: what was billed is on them."""
        self._before = self.tallies or self._before
        self.tallies = self._ask()
        for name, now in (self.tallies or _NOTHING).loops.items():
            old = self._before.loops.get(name)
            anew = old is None or now.iterations < old.iterations
            self._loops_s += max(0.0, now.cpu_s - (0.0 if old is None or anew else old.cpu_s))
        self._rows = accounts.rows()
        self.pending = {
            name: row.cpu_s for (name, outcome), row in self._rows.items() if outcome == "pending" and row.cpu_s > 0
        }
        self.open = {
            name: row.number for (name, outcome), row in self._rows.items() if outcome == "pending" and row.number > 0
        }
        self._threads.read()

    def book(self, process_class: ProcessClass, ledger: Ledger, tasks: TaskWindows) -> float:
        """What was billed since the last call, to types and to rows that are closed. Returns its seconds."""
        total = 0.0
        for name, tally in (self.tallies or _NOTHING).coroutines.items():
            gained = tally.own_cpu_s - self._booked.get(name, 0.0)
            if gained < _LEAST_S:
                continue
            self._booked[name] = tally.own_cpu_s
            total += gained
            task = ledger.name(name)
            ledger.book(process_class, task, "useful", "business", gained)
            old = self._before.coroutines.get(name)
            steps = max(0, tally.steps - (old.steps if old is not None else 0))
            tasks.add_cells(process_class, task, "useful", steps, steps, gained)
        for (name, outcome), row in self._rows.items():
            if outcome != "pending":
                total += self._book_row(process_class, ledger, tasks, name, outcome, row)
        return total

    def _book_row(
        self,
        process_class: ProcessClass,
        ledger: Ledger,
        tasks: TaskWindows,
        name: str,
        outcome: Outcome,
        row: RowTally,
    ) -> float:
        number, booked = self._booked_rows.get((name, outcome), (0, 0.0))
        gained, ended = max(0.0, row.cpu_s - booked), max(0, row.number - number)
        if not gained and not ended:
            return 0.0
        self._booked_rows[name, outcome] = number + ended, booked + gained
        task = ledger.name(name)
        if gained:
            ledger.book(process_class, task, outcome, "business", gained)
        tasks.add_cells(process_class, task, outcome, ended, ended, gained)
        return gained

    def tells_threads_apart(self) -> bool:
        """Has a loop run, and was the CPU until then booked?"""
        return self._begun and self.tallies is not None and bool(self.tallies.loops)

    def begin(self, held: float = 0.0) -> None:
        """All CPU until now is booked, but for what is `held` of the loops': from here on threads can be told apart."""
        self._machinery.begin(self.unexplained_of_loops - held)
        self._others.begin(self._unexplained_of_threads())
        self._begun = True

    def around(self, process_class: ProcessClass, ledger: Ledger, *, final: bool) -> dict[Key, float]:
        """Book the CPU around steps and rows; what may still be billed is returned as live cells."""
        held = self._inside_one_step()
        machinery, growing = self._machinery.read(self.unexplained_of_loops, running=held, final=final)
        others, running = self._others.read(self._unexplained_of_threads(), running=held, final=final)
        if machinery:
            ledger.book(process_class, NO_TASK, "none", "framework", machinery)
        if others:
            ledger.book(process_class, NO_TASK, "none", "business", others)
        # A step that still runs is somebody's work, though it is not known yet whose.
        loop_key: Key = (process_class, NO_TASK, "none", "framework")
        if held:
            loop_key = (process_class, NO_TASK, "pending", "business")
        return {loop_key: growing, (process_class, NO_TASK, "none", "business"): running}

    def _ask(self) -> Tallies | None:
        if self._source is None:
            return None
        try:
            return self._source()
        except Exception as error:
            self._source = None
            log.warning("taskwatt stopped asking what event loops count: %r", error, exc_info=error)
            return None

    @property
    def unexplained_of_loops(self) -> float:
        """CPU of the loops' threads that is no step's, while loops ran. A running step counts in until it ends."""
        tallies = self.tallies or self._before
        return max(0.0, self._loops_s - sum(one.cpu_s for one in tallies.coroutines.values()))

    def _unexplained_of_threads(self) -> float:
        """CPU of Python's threads that is neither a step's, nor a row's, nor the machinery of a loop."""
        tallies = self.tallies or self._before
        types = sum(one.own_cpu_s for one in tallies.coroutines.values())
        rows = sum(row.cpu_s for row in self._rows.values())
        return self._threads.others - types - rows - self.unexplained_of_loops

    def _inside_one_step(self) -> bool:
        """Is there a loop that has used CPU since the last reading and has not got round once?"""
        for name, now in (self.tallies or _NOTHING).loops.items():
            old = self._before.loops.get(name)
            stuck = old is not None and 0 < now.iterations == old.iterations and now.cpu_s > old.cpu_s
            if stuck and now.running:
                return True
        return False
