"""The metrics of the public contract, as observable instruments over the agent's state.

Nothing is recorded on a hot path: counters are read from the ledger when a reader collects. Histograms are the
exception, since OpenTelemetry has no observable one: the agent records them from drained attempts (see histogram.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from taskwatt.export.histogram import Counted, Histogram
from taskwatt.export.loop_metrics import LoopInstruments
from taskwatt.export.loop_metrics import Observed as ObservedLoops
from taskwatt.gauges import Reading
from taskwatt.observations import Attempt, ProcessClass
from taskwatt.windows.ledger import Ledger

GAUGES: Final[dict[str, tuple[str, str]]] = {
    "celery.queue.depth": (
        "{message}",
        "Messages ready in the queue. Every worker reads the same: aggregate with max.",
    ),
    "celery.queue.unacked": ("{message}", "Messages delivered and not acknowledged. Aggregate with max."),
    "celery.queue.oldest_age": ("s", "Age of the message at the queue's head. Aggregate with max."),
    "celery.worker.slots": ("{slot}", "Pool slots by state."),
    "celery.worker.prefetched": ("{message}", "Messages the worker holds and has not started."),
    "celery.worker.eta": ("{message}", "Messages the worker holds until their ETA."),
    "taskwatt.cpu.effective": ("{cpu}", "CPUs this process may use: affinity and quota."),
}
"""Gauges by name: unit and description. Integrations fill those of their runtime by readings."""

DURATION_BUCKETS: Final = (
    0.001,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    1800.0,
)
WAIT_BUCKETS: Final = (0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)


class Observed(ObservedLoops, Protocol):
    """What the instruments read: the agent's state, any time, from any thread."""

    @property
    def ledger(self) -> Ledger: ...
    @property
    def readings(self) -> Sequence[Reading]: ...
    @property
    def dropped(self) -> dict[str, int]: ...
    def incidents_active(self) -> Iterable[tuple[str, str]]: ...
    def unattributed(self) -> Iterable[tuple[ProcessClass, float]]: ...
    def run_delay(self) -> Iterable[tuple[str, float]]: ...


class Instruments:
    """Declares every metric on `meter`; keep it alive as long as the meter."""

    def __init__(self, meter: Meter, observed: Observed, *, counted: bool = False) -> None:
        """`counted`: the histograms count for themselves, and whoever collects lays them beside the rest."""
        self._observed = observed
        self._unattributed: dict[str, float] = {}
        meter.create_observable_counter(
            "taskwatt.cpu.time", [self._cpu], "s", "CPU by task, outcome and activity; sums to the kernel's figure."
        )
        meter.create_observable_counter(
            "taskwatt.process.cpu.time", [self._kernel], "s", "CPU the kernel charged to the process class."
        )
        meter.create_observable_counter("celery.task.attempts", [self._attempts], "{attempt}", "Settled attempts.")
        meter.create_observable_counter(
            "taskwatt.sched.run_delay", [self._run_delay], "s", "Time runnable threads waited for a CPU."
        )
        meter.create_observable_counter(
            "taskwatt.agent.dropped", [self._dropped], "{record}", "What the agent could not keep, by reason."
        )
        meter.create_observable_gauge("taskwatt.incident.active", [self._incidents], "{incident}", "Open incidents.")
        for name, (unit, description) in GAUGES.items():
            meter.create_observable_gauge(name, [self._gauge(name)], unit, description)
        task, outcome = "taskwatt.task.name", "taskwatt.task.outcome"
        self._duration = Histogram(
            meter,
            "celery.task.duration",
            "Wall time of an attempt.",
            (task, outcome),
            DURATION_BUCKETS,
            counted=counted,
        )
        self._wait = Histogram(
            meter,
            "celery.task.queue_wait",
            "From publish (or ETA, if later) to start.",
            (task,),
            WAIT_BUCKETS,
            counted=counted,
        )
        self._loops = LoopInstruments(meter, observed, counted=counted)
        self.histograms: tuple[Counted, ...] = (self._duration, self._wait, *self._loops.histograms)

    def tick(self) -> None:
        """Once a tick, on the agent's thread."""
        self._loops.tell()

    def record(self, task: str, attempt: Attempt) -> None:
        self._duration.record(attempt.duration_s, task, attempt.outcome)
        if attempt.queue_wait_s is not None and attempt.queue_wait_s >= 0:
            self._wait.record(attempt.queue_wait_s, task)

    def exemplify(self, attempt: Attempt) -> None:
        """The span of this attempt stays where a backend samples: an example of its duration."""
        ids = attempt.trace_id, attempt.span_id
        self._duration.exemplify(attempt.duration_s, ids, attempt.end_ns, attempt.task, attempt.outcome)

    def _cpu(self, _: CallbackOptions) -> Iterable[Observation]:
        for (process_class, task, outcome, activity), seconds in list(self._observed.ledger.cells.items()):
            yield Observation(
                seconds,
                {
                    "taskwatt.task.name": task,
                    "taskwatt.task.outcome": outcome,
                    "taskwatt.cpu.activity": activity,
                    "taskwatt.process.class": process_class,
                },
            )
        for process_class, seconds in self._observed.unattributed():
            # A counter must not go down: the highest value seen stands until it is exceeded.
            highest = max(self._unattributed.get(process_class, 0.0), seconds)
            self._unattributed[process_class] = highest
            yield Observation(
                highest,
                {
                    "taskwatt.task.name": "",
                    "taskwatt.task.outcome": "none",
                    "taskwatt.cpu.activity": "unattributed",
                    "taskwatt.process.class": process_class,
                },
            )

    def _kernel(self, _: CallbackOptions) -> Iterable[Observation]:
        for process_class, seconds in list(self._observed.ledger.kernel.items()):
            yield Observation(seconds, {"taskwatt.process.class": process_class})

    def _attempts(self, _: CallbackOptions) -> Iterable[Observation]:
        for (process_class, task, outcome, state), count in list(self._observed.ledger.attempts.items()):
            yield Observation(
                count,
                {
                    "taskwatt.task.name": task,
                    "taskwatt.task.outcome": outcome,
                    "celery.state": state,
                    "taskwatt.process.class": process_class,
                },
            )

    def _run_delay(self, _: CallbackOptions) -> Iterable[Observation]:
        for process_class, seconds in self._observed.run_delay():
            yield Observation(seconds, {"taskwatt.process.class": process_class})

    def _dropped(self, _: CallbackOptions) -> Iterable[Observation]:
        for reason, count in list(self._observed.dropped.items()):
            yield Observation(count, {"reason": reason})

    def _incidents(self, _: CallbackOptions) -> Iterable[Observation]:
        counts: dict[tuple[str, str], int] = {}
        for key in self._observed.incidents_active():
            counts[key] = counts.get(key, 0) + 1
        for (cause, severity), count in counts.items():
            yield Observation(count, {"taskwatt.finding.cause": cause, "taskwatt.finding.severity": severity})

    def _gauge(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for reading in self._observed.readings:
                if reading.metric == name:
                    yield Observation(reading.value, dict(reading.attributes))

        return observe
