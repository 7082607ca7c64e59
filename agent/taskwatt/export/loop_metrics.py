"""The metrics of event loops and coroutine types, read from what was folded since the agent began.

How long an arrival waits is known as seconds of the loop's life, by bucket: no single wait was ever measured. As a
histogram that is one count a millisecond, laid beside what the SDK collects; where the SDK must record every count
itself (a provider of the user's, a receiver of deltas) it is one count in 10 ms, and the quantiles are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol, cast

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics.export import AggregationTemporality, HistogramDataPoint, Metric
from opentelemetry.sdk.metrics.export import Histogram as HistogramData

from taskwatt.observations import DELAY_BUCKETS, LoopTally, ProcessClass
from taskwatt.windows import LoopWindow
from taskwatt.windows.loop_totals import LoopTotals
from taskwatt.windows.loops import LoopWindows

_TASK: Final = "taskwatt.task.name"
_CLASS: Final = "taskwatt.process.class"
_KIND: Final = "asyncio.executor.kind"

_COUNT_S: Final = 0.001
"""Of a loop's life, for one count of `asyncio.eventloop.delay`."""
_RECORD_S: Final = 0.01
"""The same where each count is a call of the SDK."""
_RECORDED_AT_ONCE: Final = 1_000
"""Calls of the SDK in one tick: many loops must not make it dear."""
_LOWER: Final = (0.0, *DELAY_BUCKETS)
_MIDDLE: Final = (*((low + high) / 2 for low, high in zip(_LOWER, DELAY_BUCKETS, strict=False)), DELAY_BUCKETS[-1])
"""What a wait of each bucket is taken for in the sum; above the last bound, that bound."""


class Observed(Protocol):
    """What these instruments read, any time, from any thread."""

    @property
    def loops(self) -> LoopWindows: ...
    @property
    def loop_windows(self) -> Sequence[LoopWindow]: ...
    @property
    def process_class(self) -> ProcessClass: ...


class Laid:
    """A histogram whose counts are kept elsewhere: cumulative, to be laid beside what the SDK collected."""

    def __init__(
        self, name: str, description: str, bounds: Sequence[float], points: Callable[[], Iterable[Weighed]]
    ) -> None:
        self._name, self._description, self._bounds, self._points = name, description, tuple(bounds), points
        self._since_ns = time.time_ns()

    def metric(self) -> Metric | None:
        """Everything counted so far; None when nothing was."""
        now = time.time_ns()
        unknown = cast(float, None)  # which single wait was shortest or longest nobody knows, and OTLP need not say
        points = [
            HistogramDataPoint(
                attributes=dict(attributes),
                start_time_unix_nano=self._since_ns,
                time_unix_nano=now,
                count=sum(counts),
                sum=total,
                bucket_counts=tuple(counts),
                explicit_bounds=self._bounds,
                min=unknown,
                max=unknown,
            )
            for attributes, counts, total in self._points()
            if any(counts)
        ]
        if not points:
            return None
        return Metric(self._name, self._description, "s", HistogramData(points, AggregationTemporality.CUMULATIVE))


Weighed = tuple[Mapping[str, str], Sequence[int], float]
"""Attributes, counts by bucket, sum of the seconds."""

DELAY: Final = "asyncio.eventloop.delay"
SCHEDULE_DELAY: Final = "asyncio.task.schedule_delay"
WAIT: Final = "asyncio.executor.wait"
_HISTOGRAMS: Final[Mapping[str, tuple[str, Sequence[float]]]] = {
    DELAY: (
        "What an arrival would have waited for its event loop: one count for each millisecond of the loop's life.",
        DELAY_BUCKETS,
    ),
    SCHEDULE_DELAY: ("From being woken to running, of the steps of which it was measured. Sum and count.", ()),
    WAIT: ("From submission to start of what was handed to a thread pool. Sum and count.", ()),
}


class LoopInstruments:
    """Declares the metrics on `meter`; keep it alive as long as the meter."""

    def __init__(self, meter: Meter, observed: Observed, *, counted: bool) -> None:
        """`counted`: the histograms are laid beside what the SDK collects, so that it need not record them."""
        self._observed = observed
        self._counted = counted
        self._recorded = LoopTotals()
        """What the SDK was told already."""
        self._sdk = {
            name: meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=bounds)
            for name, (description, bounds) in _HISTOGRAMS.items()
        }
        points: Mapping[str, Callable[[], Iterable[Weighed]]] = {
            DELAY: self._delay,
            SCHEDULE_DELAY: self._schedule_delay,
            WAIT: self._wait,
        }
        self.histograms = tuple(Laid(name, *_HISTOGRAMS[name], points[name]) for name in _HISTOGRAMS)
        counter, gauge = meter.create_observable_counter, meter.create_observable_gauge
        counter("asyncio.eventloop.time", [self._time], "s", "Time event loops were busy, or waited for events (idle).")
        gauge(
            "asyncio.eventloop.utilization",
            [self._utilization],
            "",
            "Share of the last 10 s in which the busiest event loop was not waiting for events.",
        )
        gauge(
            "asyncio.eventloop.ready",
            [self._ready],
            "{handle}",
            "Most handles that were ready at once in one event loop, in the last second.",
        )
        counter("asyncio.task.steps", [self._sums("steps")], "{step}", "Steps of tasks and runs of callbacks.")
        counter(
            "asyncio.task.self_wakes",
            [self._sums("self_wakes")],
            "{step}",
            "Steps that nothing had to happen for, such as after sleep(0).",
        )
        counter("asyncio.task.lost", [self._lost], "{task}", "Tasks whose exception or result nobody took, by reason.")
        gauge("asyncio.task.live", [self._live], "{task}", "Tasks that began and have not ended.")
        gauge("asyncio.executor.queue", [self._queue], "{item}", "Work that waits for a thread of a pool.")

    def tell(self) -> None:
        """Once a tick, on the agent's thread: where the SDK must record by itself, tell it what is new."""
        if self._counted:
            return
        told, totals = self._recorded, self._observed.loops.totals
        left = _RECORDED_AT_ONCE
        for at, seconds in enumerate(totals.delay):
            times = int((seconds - told.delay[at]) / _RECORD_S)
            told.delay[at] += times * _RECORD_S
            for _ in range(min(times, left)):
                self._sdk[DELAY].record(_MIDDLE[at], {_CLASS: self._class})
            left -= min(times, left)
        for name, one in list(totals.coroutines.items()):
            known = told.of(name)
            if one.delays > known.delays:
                mean = (one.delay_s - known.delay_s) / (one.delays - known.delays)
                self._sdk[SCHEDULE_DELAY].record(mean, {_TASK: name, _CLASS: self._class})
                known.delays, known.delay_s = one.delays, one.delay_s
        for kind, executor in list(totals.by_executor.items()):
            before = told.executor(kind)
            if executor.started > before.started:
                mean = (executor.wait_s - before.wait_s) / (executor.started - before.started)
                self._sdk[WAIT].record(mean, {_KIND: kind, _CLASS: self._class})
                before.started, before.wait_s = executor.started, executor.wait_s

    @property
    def _class(self) -> ProcessClass:
        return self._observed.process_class

    @property
    def _totals(self) -> LoopTotals:
        return self._observed.loops.totals

    def _delay(self) -> Iterable[Weighed]:
        counts = [int(seconds / _COUNT_S) for seconds in self._totals.delay]
        yield {_CLASS: self._class}, counts, sum(count * middle for count, middle in zip(counts, _MIDDLE, strict=True))

    def _schedule_delay(self) -> Iterable[Weighed]:
        for name, one in list(self._totals.coroutines.items()):
            yield {_TASK: name, _CLASS: self._class}, [int(one.delays)], one.delay_s

    def _wait(self) -> Iterable[Weighed]:
        for kind, one in list(self._totals.by_executor.items()):
            yield {_KIND: kind, _CLASS: self._class}, [one.started], one.wait_s

    def _time(self, _: CallbackOptions) -> Iterable[Observation]:
        totals = self._totals
        if totals.busy_s or totals.idle_s:
            yield Observation(totals.busy_s, {"state": "busy", _CLASS: self._class})
            yield Observation(totals.idle_s, {"state": "idle", _CLASS: self._class})

    def _utilization(self, _: CallbackOptions) -> Iterable[Observation]:
        loops = self._observed.loop_windows
        if loops:
            yield Observation(max(one.utilization for one in loops), {_CLASS: self._class})

    def _ready(self, _: CallbackOptions) -> Iterable[Observation]:
        running: list[LoopTally] = self._observed.loops.running
        seen = [one.ready_max for one in running if one.ready_max or not one.partial]
        if seen:
            yield Observation(max(seen), {_CLASS: self._class})

    def _sums(self, field: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for name, one in list(self._totals.coroutines.items()):
                if value := getattr(one, field):
                    yield Observation(value, {_TASK: name, _CLASS: self._class})

        return observe

    def _lost(self, _: CallbackOptions) -> Iterable[Observation]:
        for name, one in list(self._totals.coroutines.items()):
            for reason in ("never_retrieved", "never_awaited", "destroyed_pending"):
                if value := getattr(one, reason):
                    yield Observation(value, {_TASK: name, "reason": reason, _CLASS: self._class})

    def _live(self, _: CallbackOptions) -> Iterable[Observation]:
        living: dict[str, int] = {}
        for name, (tally, number) in self._observed.loops.live.items():
            if tally.started:
                name = self._totals.name(name)
                living[name] = living.get(name, 0) + number
        for name, number in living.items():
            yield Observation(number, {_TASK: name, _CLASS: self._class})

    def _queue(self, _: CallbackOptions) -> Iterable[Observation]:
        for kind, number in self._observed.loops.queued().items():
            yield Observation(number, {_KIND: kind, _CLASS: self._class})
