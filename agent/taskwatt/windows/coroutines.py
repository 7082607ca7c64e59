"""Coroutine and callback types over the last ticks.

Carriers count since their process began, so a span is a sum of differences. A type that begins anew (in a new process,
under the same name) counts from nothing: no difference is negative.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

from taskwatt.observations import OTHER, CodeSite, CoroutineTally, Stall
from taskwatt.windows import CoroutineWindow
from taskwatt.windows.sliding import SlidingSums

TYPES: Final = 256
"""Types with figures of their own in one tick, those that ran most; the rest share `other`."""
COSTS: Final = 64
"""Long steps kept of a type and tick."""
SITES: Final = 64
"""Lines of stalls kept of a tick."""

_WINDOWED: Final = (
    "steps",
    "cpu_s",
    "own_cpu_s",
    "wall_s",
    "self_wakes",
    "started",
    "completed",
    "failed",
    "cancelled",
    "waits",
    "short_waits",
    "looks",
    "sleeping",
    "timed_out",
    "connecting",
    "scanning",
    "scanned",
    "last",
    "woke",
    "at_end",
)
"""Sums that a CoroutineWindow has under the same name."""
SUMS: Final = (*_WINDOWED, "same_line", "never_retrieved", "never_awaited", "destroyed_pending", "delays", "delay_s")
"""Every figure of a tally that only grows."""
_SECONDS: Final = frozenset({"cpu_s", "own_cpu_s", "wall_s"})
_SAME_LINE: Final = SUMS.index("same_line")
_sums: Final = itemgetter(*map(CoroutineTally._fields.index, SUMS))

Costs = tuple[tuple[int, float], ...]
"""(tasks alive, CPU seconds) of long steps."""


def gained(before: CoroutineTally | None, now: CoroutineTally) -> tuple[float, ...]:
    """SUMS since the last reading; all there is of a type that is new or began anew."""
    if before is None or now.steps < before.steps or now.started < before.started:
        return tuple(_sums(now))
    return tuple(max(0, new - old) for new, old in zip(_sums(now), _sums(before), strict=True))


class _Site(NamedTuple):
    task: str
    function: str
    file: str
    line: int


class _Kept(NamedTuple):
    """What is no sum, of one tick."""

    costs: Mapping[str, Costs]
    sites: Mapping[_Site, tuple[float, int]]
    """Seconds and number of the stalls that were seen there, by type."""
    paid: Mapping[_Site, tuple[float, int]]
    """The same by the row of the ledger that paid, without what only waited."""


class CoroutineWindows:
    """`add` what happened in a tick and `roll` it; `over` tells what happened in the newest ones."""

    def __init__(self, spans: Sequence[int]) -> None:
        self._sliding = SlidingSums(spans, len(SUMS))
        self._kept: deque[_Kept] = deque(maxlen=max(spans))
        self._open: dict[str, tuple[list[float], float]] = {}
        self._costs: dict[str, Costs] = {}
        self._sites: dict[_Site, tuple[float, int]] = {}
        self._paid: dict[_Site, tuple[float, int]] = {}

    def add(self, name: str, figures: Sequence[float], longest_s: float, costs: Costs) -> None:
        """What one process's type gained. Types of one name are added up."""
        sums, longest = self._open.get(name, (None, 0.0))
        self._open[name] = _joined(sums, figures), max(longest, longest_s)
        if costs:
            self._costs[name] = (*self._costs.get(name, ()), *costs)[-COSTS:]

    def stalled(self, stall: Stall) -> None:
        """Where a stall was seen is where its type is hot."""
        if stall.code is None or not stall.task:
            return
        _add(self._sites, stall.task, stall.code, stall.duration_s)
        if stall.cause != "blocking":
            _add(self._paid, stall.name, stall.code, stall.duration_s)

    def roll(self) -> None:
        """The tick has ended."""
        if len(self._open) > TYPES:
            self._merge_the_least()
        self._sliding.roll(self._open)
        self._kept.append(
            _Kept({name: those for name, those in self._costs.items() if name in self._open}, self._sites, self._paid)
        )
        self._open, self._costs, self._sites, self._paid = {}, {}, {}, {}

    def _merge_the_least(self) -> None:
        cpu, steps = SUMS.index("cpu_s"), SUMS.index("steps")
        ranked = sorted(self._open.items(), key=lambda item: (item[1][0][cpu], item[1][0][steps]), reverse=True)
        rest, longest = self._open.get(OTHER, (None, 0.0))
        for name, (sums, peak) in ranked[TYPES - 1 :]:
            if name != OTHER:
                rest, longest = _joined(rest, sums), max(longest, peak)
                del self._open[name]
        if rest is not None:
            self._open[OTHER] = rest, longest

    def over(self, span: int, now: Mapping[str, tuple[CoroutineTally, int]]) -> tuple[CoroutineWindow, ...]:
        """Types that did something in the newest `span` ticks, by name.

        `now`: a tally of each type, and how many of it live, in all processes.
        """
        newest = list(self._kept)[-span:]
        costs: dict[str, Costs] = defaultdict(tuple)
        for one in newest:
            for name, those in one.costs.items():
                costs[name] += those
        hot = _hottest(one.sites for one in newest)
        return tuple(
            _window(name, figures, longest_s, costs[name], now.get(name, (None, 0)), hot.get(name))
            for name, (figures, longest_s) in sorted(self._sliding.over(span).items())
        )

    def code(self, span: int) -> dict[str, CodeSite]:
        """Where the rows of the ledger are hot: a server's requests have one coroutine type, and each has its row."""
        return _hottest(one.paid for one in list(self._kept)[-span:])


def _add(sites: dict[_Site, tuple[float, int]], name: str, code: CodeSite, seconds: float) -> None:
    site = _Site(name, code.function, code.file, code.line)
    before, number = sites.get(site, (0.0, 0))
    if number or len(sites) < SITES:
        sites[site] = before + seconds, number + 1


def _joined(sums: list[float] | None, more: Sequence[float]) -> list[float]:
    return list(more) if sums is None else [one + other for one, other in zip(sums, more, strict=True)]


def _hottest(ticks: Iterable[Mapping[_Site, tuple[float, int]]]) -> dict[str, CodeSite]:
    """Of each name the line at which its stalls were seen longest; its weight is its share of their time."""
    spent: dict[_Site, tuple[float, int]] = {}
    totals: dict[str, float] = defaultdict(float)
    for one in ticks:
        for site, (seconds, number) in one.items():
            before = spent.get(site, (0.0, 0))
            spent[site] = before[0] + seconds, before[1] + number
            totals[site.task] += seconds
    found: dict[str, CodeSite] = {}
    for site, (seconds, number) in sorted(spent.items(), key=lambda item: item[1]):
        found[site.task] = CodeSite(*site, seconds / totals[site.task] if totals[site.task] else 0.0, number)
    return found


def _window(
    name: str,
    figures: Sequence[float],
    longest_s: float,
    costs: Costs,
    now: tuple[CoroutineTally | None, int],
    code: CodeSite | None,
) -> CoroutineWindow:
    tally, live = now
    sums: dict[str, Any] = {
        field: max(0.0, value) if field in _SECONDS else round(value)
        for field, value in zip(_WINDOWED, figures, strict=False)
    }
    resumed = defined = None
    if tally is not None and tally.resumed_at is not None and sums["looks"]:
        share = min(1.0, max(0.0, figures[_SAME_LINE]) / sums["looks"])
        resumed = CodeSite(name, *tally.resumed_at, share, sums["looks"])
    if tally is not None and tally.defined_at is not None:
        defined = CodeSite(name, *tally.defined_at, 0.0, 0)
    return CoroutineWindow(
        name=name,
        kind=tally.kind if tally is not None else "task",
        longest_s=longest_s,
        live=live,
        resumed_at=resumed,
        defined_at=defined,
        costs=costs,
        code=code,
        **sums,
    )
