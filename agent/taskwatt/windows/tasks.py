"""Attempts folded into spans of time: one slice a tick, a window is the sum of the last slices."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from taskwatt.observations import WASTED_OUTCOMES, Attempt, CodeSite, Outcome, ProcessClass
from taskwatt.windows import TaskWindow

_REMEMBERED: Final = 8192
"""Logical ids, successes and arguments kept to tell repeats apart: under 2 MB."""
_SAMPLED: Final = 64
"""Retry delays kept per task and slice."""
_TERMINAL: Final = frozenset({"useful", "failed", "duplicate"})
"""`cancelled` is none by itself: the message of an attempt that was cut off may come back."""


@dataclass(slots=True)
class _Slice:
    attempts: dict[Outcome, int] = field(default_factory=lambda: defaultdict(int))
    cpu: dict[Outcome, float] = field(default_factory=lambda: defaultdict(float))
    firsts: int = 0
    repeat_attempts: int = 0
    repeat_wasted_cpu: float = 0.0
    repeat_useful: int = 0
    delays: list[float] = field(default_factory=list[float])
    growth: list[float] = field(default_factory=list[float])
    max_depth: int = 0
    self_published: int = 0
    repeated_args: int = 0
    unsettled: int = 0
    deaths: int = 0


class _Recent:
    """A bounded memory: what was put longest ago is forgotten first."""

    def __init__(self) -> None:
        self._items: OrderedDict[object, tuple[int, float]] = OrderedDict()

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def get(self, key: object) -> tuple[int, float]:
        return self._items.get(key, (0, 0.0))

    def put(self, key: object, value: tuple[int, float] = (0, 0.0)) -> None:
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > _REMEMBERED:
            self._items.popitem(last=False)

    def forget(self, key: object) -> None:
        self._items.pop(key, None)


class TaskWindows:
    """Folds settled attempts; `roll` closes a slice, `over` sums the newest ones."""

    def __init__(self, keep: int = 61) -> None:
        self._slices: deque[dict[tuple[ProcessClass, str], _Slice]] = deque(maxlen=keep)
        self._open: dict[tuple[ProcessClass, str], _Slice] = {}
        self._unsettled = _Recent()
        self._cut_off = _Recent()
        self._succeeded = _Recent()
        self._arguments = _Recent()

    def outcome(self, attempt: Attempt) -> Outcome:
        """The ledger's outcome: a success that its logical id already had is a duplicate."""
        if attempt.outcome != "useful" or not attempt.task_id:
            return attempt.outcome
        key = (attempt.task_id, attempt.nesting)
        if attempt.redelivered and key in self._succeeded:
            return "duplicate"
        self._succeeded.put(key)
        return "useful"

    def fold(self, process_class: ProcessClass, task: str, attempt: Attempt) -> None:
        one = self._slice(process_class, task)
        one.attempts[attempt.outcome] += 1
        one.cpu[attempt.outcome] += attempt.cpu.total
        one.firsts += attempt.first
        if not attempt.first:
            one.repeat_attempts += 1
            if attempt.outcome in WASTED_OUTCOMES:
                one.repeat_wasted_cpu += attempt.cpu.total
            elif attempt.outcome == "useful":
                one.repeat_useful += 1
        self._fold_lineage(one, task, attempt)

    def _fold_lineage(self, one: _Slice, task: str, attempt: Attempt) -> None:
        one.max_depth = max(one.max_depth, attempt.depth)
        if attempt.depth and attempt.first:
            one.self_published += 1
            one.repeated_args += self._repeats_arguments(task, attempt)
        if attempt.outcome in _TERMINAL:
            self._unsettled.forget(attempt.task_id)
            self._cut_off.forget(attempt.task_id)
            return
        if not attempt.task_id:  # lost: attempts of unknown ids are not one task
            return
        if attempt.outcome == "cancelled":
            self._fold_death(one, attempt)
            return
        used, last_delay = self._unsettled.get(attempt.task_id)
        delay = attempt.retry_delay_s
        if delay is not None and len(one.delays) < _SAMPLED:
            one.delays.append(delay)
            if used and last_delay > 0:
                one.growth.append(delay / last_delay)
        self._unsettled.put(attempt.task_id, (used + 1, delay or 0.0))
        one.unsettled = max(one.unsettled, used + 1)

    def _fold_death(self, one: _Slice, attempt: Attempt) -> None:
        """Of the first one nobody knows whether its message comes back: it is counted when it has."""
        before, _ = self._cut_off.get(attempt.task_id)
        deaths = before + 1 if attempt.redelivered else 1
        self._cut_off.put(attempt.task_id, (deaths, 0.0))
        if deaths > 1:
            one.deaths = max(one.deaths, deaths)

    def _repeats_arguments(self, task: str, attempt: Attempt) -> bool:
        """Had an earlier generation the same arguments?

        A pagination that starts over meets its own at the same depth.
        """
        if not attempt.args_hash:
            return False
        key = (task, attempt.args_hash)
        depth, _ = self._arguments.get(key)
        if key not in self._arguments or attempt.depth < depth:
            self._arguments.put(key, (attempt.depth, 0.0))
            return False
        return attempt.depth > depth

    def add_cells(
        self, process_class: ProcessClass, task: str, outcome: Outcome, attempts: int, firsts: int, cpu_s: float
    ) -> None:
        """Attempts of which only totals are known (the ring was full)."""
        one = self._slice(process_class, task)
        one.attempts[outcome] += attempts
        one.firsts += firsts
        repeats = attempts - firsts
        one.repeat_attempts += repeats
        one.cpu[outcome] += cpu_s
        if outcome in WASTED_OUTCOMES and attempts:
            one.repeat_wasted_cpu += cpu_s * repeats / attempts
        elif outcome == "useful":
            one.repeat_useful += repeats

    def add_share(self, process_class: ProcessClass, shares: Mapping[tuple[str, Outcome, bool], float]) -> None:
        """The main process's CPU for the attempts it served."""
        for (task, outcome, repeat), seconds in shares.items():
            one = self._slice(process_class, task)
            one.cpu[outcome] += seconds
            if repeat and outcome in WASTED_OUTCOMES:
                one.repeat_wasted_cpu += seconds

    def roll(self) -> None:
        self._slices.append(self._open)
        self._open = {}

    def over(
        self,
        slices: int,
        cpu: Mapping[tuple[ProcessClass, str], Mapping[Outcome, float]],
        in_flight: Mapping[tuple[ProcessClass, str], tuple[int, float]],
        code: Mapping[str, CodeSite],
        code_missing: Mapping[str, str],
    ) -> tuple[TaskWindow, ...]:
        """The last `slices` closed slices.

        `cpu`: the ledger's seconds over the same span, which knows what of a long attempt was burned before it.
        `in_flight`: (class, task) -> how many run, oldest age (s). `code` and `code_missing` by task name.
        """
        merged: dict[tuple[ProcessClass, str], list[_Slice]] = defaultdict(list)
        for one in list(self._slices)[-slices:]:
            for key, part in one.items():
                merged[key].append(part)
        for key in in_flight:
            merged.setdefault(key, [])
        return tuple(
            replace(
                _window(key, parts, cpu.get(key, {}), in_flight.get(key, (0, 0.0))),
                code=code.get(key[1]),
                code_missing=code_missing.get(key[1], ""),
            )
            for key, parts in sorted(merged.items())
        )

    def _slice(self, process_class: ProcessClass, task: str) -> _Slice:
        key = (process_class, task)
        found = self._open.get(key)
        if found is None:
            found = self._open[key] = _Slice()
        return found


def _window(
    key: tuple[ProcessClass, str],
    parts: list[_Slice],
    cpu: Mapping[Outcome, float],
    running: tuple[int, float],
) -> TaskWindow:
    attempts: dict[Outcome, int] = defaultdict(int)
    for part in parts:
        for outcome, count in part.attempts.items():
            attempts[outcome] += count
    count, oldest = running
    return TaskWindow(
        task=key[1],
        process_class=key[0],
        attempts=dict(attempts),
        firsts=sum(part.firsts for part in parts),
        cpu=dict(cpu),
        repeat_attempts=sum(part.repeat_attempts for part in parts),
        repeat_wasted_cpu=_repeat_wasted(parts, cpu),
        repeat_useful=sum(part.repeat_useful for part in parts),
        retry_delays=tuple(delay for part in parts for delay in part.delays),
        retry_growth=tuple(growth for part in parts for growth in part.growth),
        max_depth=max((part.max_depth for part in parts), default=0),
        self_published=sum(part.self_published for part in parts),
        repeated_args=sum(part.repeated_args for part in parts),
        unsettled_attempts=max((part.unsettled for part in parts), default=0),
        deaths=max((part.deaths for part in parts), default=0),
        oldest_in_flight_s=oldest,
        in_flight=count,
    )


def _repeat_wasted(parts: list[_Slice], cpu: Mapping[Outcome, float]) -> float:
    """The repeats' part of the waste, of what the ledger says was wasted within the span."""
    settled = sum(seconds for part in parts for outcome, seconds in part.cpu.items() if outcome in WASTED_OUTCOMES)
    if not settled:
        return 0.0
    within = sum(max(0.0, seconds) for outcome, seconds in cpu.items() if outcome in WASTED_OUTCOMES)
    return sum(part.repeat_wasted_cpu for part in parts) * min(1.0, within / settled)
