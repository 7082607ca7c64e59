"""Which line each hot task type burns at: asks the children, and looks from outside at an attempt that does not return.

A child that is asked samples its own next attempts for two seconds. One that is inside an endless loop never comes back
to be asked; after a while it is read from outside, on a thread that lives only for that look.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Final

from taskwatt.code_probe import probe as probe_process
from taskwatt.drainer import Live
from taskwatt.observations import CodeSite
from taskwatt.windows import Window

ASK_FOR_S: Final = 2.0
AGAIN_AFTER_S: Final = 60.0
"""A known line is looked up again: what burns changes when code or data do."""
NO_ANSWER_AFTER_S: Final = 4.0
"""From here on a question that nobody answered is asked again, each time after twice as long.

Attempts that are too short to be seen stay so, and each question costs the children.
"""
HOT_CORES: Final = 0.05
"""CPU of one task type from which its line is worth asking for."""
STUCK_S: Final = 5.0
"""Age of an attempt that uses CPU, after which it is looked at from outside: it may never return to the hook."""
STUCK_CORES: Final = 0.5
MAX_TASKS: Final = 500


class CodeWatch:
    """Owned by the tick; not thread-safe but for the probe's answer."""

    def __init__(self, ask: Callable[[int], None], probe: Callable[[int, str], CodeSite | str] = probe_process) -> None:
        """`ask(until)` makes every child sample its attempts until then (wall ns).

        `probe(pid, task)` reads another process's stack; blocks for seconds; a phrase says why it could not.
        """
        self._ask, self._probe = ask, probe
        self.sites: dict[str, CodeSite] = {}
        """The hottest line by task name."""
        self.missing: dict[str, str] = {}
        """Why a task that was looked for has no line."""
        self._due_at: dict[str, float] = {}
        self._patience_s: dict[str, float] = {}
        self._asked_at = float("-inf")
        self._answered: frozenset[CodeSite] = frozenset()
        self._round: dict[str, Counter[tuple[str, str, int]]] = {}
        self._probing: threading.Thread | None = None
        self._probed: SimpleQueue[tuple[str, CodeSite | str]] = SimpleQueue()

    def note(self, answers: Iterable[CodeSite], now: float) -> None:
        """What the children's segments say. An answer stays there until the next one, so only new ones count."""
        answered = frozenset(answers)
        for answer in answered - self._answered:
            seen = self._round.setdefault(answer.task, Counter())
            seen[answer.function, answer.file, answer.line] = max(1, round(answer.samples * answer.weight))
            (function, file, line), count = seen.most_common(1)[0]
            if count <= answer.samples * answer.weight + 1:
                self._know(answer._replace(function=function, file=file, line=line), now)
        self._answered = answered
        self._take_probed(now)

    def look(self, now: float, window: Window, live: Sequence[Live], cores: Mapping[int, float]) -> None:
        """Once a tick: ask for the line of the task types that are hot in `window`. `cores`: CPUs by pid just now."""
        if not window.seconds:
            return
        hot = [task.task for task in window.tasks if task.cpu_total / window.seconds >= HOT_CORES]
        due = {task for task in hot if now >= self._due_at.get(task, 0.0)}
        if due and now - self._asked_at >= NO_ANSWER_AFTER_S:
            self._asked_at = now
            self._round.clear()
            self._ask(time.time_ns() + int(ASK_FOR_S * 1e9))
            for task in due:
                patience_s = self._patience_s.get(task, NO_ANSWER_AFTER_S)
                self._due_at[task] = now + patience_s
                self._patience_s[task] = min(AGAIN_AFTER_S, 2 * patience_s)
        unknown = set(hot) - self.sites.keys() - self.missing.keys()
        stuck = [one for one in live if one.task in unknown and one.running_s > STUCK_S and _busy(one, cores)]
        if stuck and self._probing is None:
            self._look_from_outside(max(stuck, key=lambda one: one.running_s))

    def _look_from_outside(self, one: Live) -> None:
        def look() -> None:
            try:
                self._probed.put((one.task, self._probe(one.pid, one.task)))
            except Exception as error:
                self._probed.put((one.task, f"looking from outside failed: {error!r}"))

        self._probing = threading.Thread(target=look, name="taskwatt-probe", daemon=True)
        self._probing.start()

    def _take_probed(self, now: float) -> None:
        try:
            task, found = self._probed.get_nowait()
        except Empty:
            return
        self._probing = None
        if isinstance(found, CodeSite):
            self._know(found, now)
        elif task not in self.sites:
            self.missing[task] = found

    def _know(self, site: CodeSite, now: float) -> None:
        if site.task in self.sites or len(self.sites) < MAX_TASKS:
            self.sites[site.task] = site
            self._due_at[site.task] = now + AGAIN_AFTER_S
            self._patience_s.pop(site.task, None)
            self.missing.pop(site.task, None)


def _busy(one: Live, cores: Mapping[int, float]) -> bool:
    return cores.get(one.pid, 0.0) > STUCK_CORES
