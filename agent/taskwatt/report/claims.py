"""What findings take back of the CPU that the ledger calls useful.

An outcome is a fact: an attempt that republishes itself for ever ends well each time, a coroutine that spins has useful
steps. That nothing comes of them is a judgement. So the ledger's rows stay as they are, and the document says beside
them how much of which row a finding claims. `docs/design.md` has the rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from taskwatt.observations import WASTED_OUTCOMES
from taskwatt.rules import Finding
from taskwatt.windows import Window

TURNING: Final = frozenset({"hot_loop", "polling"})
"""Causes whose claim holds the loop's own turning, which lies in rows of asyncio's timers and of no task."""
ASYNCIO: Final = "asyncio."
_LEAST: Final = 1e-6
"""CPUs below are none in the document."""

_Place = tuple[str, str]
"""The task and outcome of a row."""


def claims(window: Window, findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """The largest first: `cause` and `task` of the finding, `from_task` and `from_outcome` of the row, CPUs.

    Both of the row are None for a coroutine type within attempts or requests: whose they are is not known.
    """
    book = _Book(window)
    held = [each for each in findings if each.found and each.task and each.wasted_cores > 0]
    for finding in sorted(held, key=lambda each: -each.wasted_cores):
        book.claim(finding)
    return sorted(merged(book.claims), key=lambda each: -each["cores"])


def merged(claims: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Claims of the same finding on the same row, of several agents, as one."""
    sums: dict[tuple[Any, ...], float] = {}
    for each in claims:
        key = (each["cause"], each["task"], each["from_task"], each["from_outcome"])
        sums[key] = sums.get(key, 0.0) + each["cores"]
    names = ("cause", "task", "from_task", "from_outcome")
    return [{**dict(zip(names, key, strict=True)), "cores": round(cores, 6)} for key, cores in sums.items()]


class _Book:
    """CPUs of each row that nothing claims yet."""

    def __init__(self, window: Window) -> None:
        self.claims: list[dict[str, Any]] = []
        self._window = window
        self._left: dict[_Place, float] = {}
        self._wasted: dict[str, float] = {}
        for (task, outcome, activity), cpu_s in window.ledger.items():
            cores = max(0.0, cpu_s / window.seconds)
            if outcome in WASTED_OUTCOMES:
                self._wasted[task] = self._wasted.get(task, 0.0) + cores
            elif task or activity == "framework":
                self._left[task, outcome] = self._left.get((task, outcome), 0.0) + cores
        self._types = {one.name: one for one in window.coroutines}
        own = {one.name for one in window.coroutines if one.own_cpu_s > 0}
        self._within = math.fsum(cores for (task, _), cores in self._left.items() if task and task not in own)
        self._done: set[str] = set()

    def claim(self, finding: Finding) -> None:
        """The first claim on a task is the largest one, and the others tell of the same CPU."""
        task = finding.task
        if task in self._done:
            return
        self._done.add(task)
        rest = finding.wasted_cores - self._wasted.get(task, 0.0)
        before = rest
        for outcome in ("useful", "pending"):
            rest = self._take(finding, rest, (task, outcome))
        rest -= self._take_within(finding, min(rest, self._elsewhere(task, before - rest)))
        if finding.cause not in TURNING:
            return
        if self._window.attempted:  # in an attempt the attempt pays for the loop's turning as well
            self._take_within(finding, rest)
            return
        for place in [place for place in self._left if place[0].startswith(ASYNCIO)]:
            rest = self._take(finding, rest, place)
        self._take(finding, rest, ("", "none"))

    def _elsewhere(self, task: str, taken: float) -> float:
        """CPUs of the steps of a type that are not in its own row, but in those of attempts and requests."""
        one = self._types.get(task)
        return (
            0.0 if one is None else one.cpu_s / self._window.seconds - max(one.own_cpu_s / self._window.seconds, taken)
        )

    def _take(self, finding: Finding, wanted: float, place: _Place) -> float:
        """What is still wanted after that row gave what it has."""
        taken = min(wanted, self._left.get(place, 0.0))
        if taken < _LEAST:
            return wanted
        self._left[place] -= taken
        self._note(finding, taken, *place)
        return wanted - taken

    def _take_within(self, finding: Finding, wanted: float) -> float:
        taken = min(wanted, self._within)
        if taken < _LEAST:
            return 0.0
        self._within -= taken
        self._note(finding, taken, None, None)
        return taken

    def _note(self, finding: Finding, cores: float, task: str | None, outcome: str | None) -> None:
        where = {"from_task": task, "from_outcome": outcome}
        self.claims.append({"cause": finding.cause, "task": finding.task, **where, "cores": cores})
