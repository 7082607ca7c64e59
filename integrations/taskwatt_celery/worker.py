"""When a Celery process starts to matter: the main process of a worker, its pool children, and anyone who publishes."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from celery import signals

from taskwatt import clocks
from taskwatt.drainer import Death
from taskwatt.export import provider
from taskwatt.export.context import Sample, env_sampler
from taskwatt.gauges import Reading
from taskwatt.meter import ignore_collections, meter, own_cost, watch_collections
from taskwatt.observations import ProcessClass
from taskwatt.runtime import runtime
from taskwatt.segments import SegmentWriter
from taskwatt.settings import Settings
from taskwatt_celery import carriers, serialization
from taskwatt_celery.attempt import Recorder
from taskwatt_celery.backlog import Backlog
from taskwatt_celery.hook import Hook
from taskwatt_celery.publish import Publishing

log = logging.getLogger("taskwatt")

_MEASURED_POOLS = ("prefork", "solo", "processes")
_UID = "taskwatt"
_FLUSH_S = 1.0
"""Longest delay of a pool process's end by the user's own exporter."""


class Worker:
    """The receivers of worker signals, and what they set up."""

    def __init__(self) -> None:
        self._recorder: Recorder | None = None
        self._sample: Sample | None = None
        self._received: dict[str, float] = {}
        self._received_at = 0.0
        self._measured_main = False
        self._in_worker = False
        """Is this a worker, or a pool child of one? Those that are not measured do not become owners later."""
        self._main: tuple[int, Any] = (0, None)
        """Process and controller of the worker that was initialised here."""
        self._blind = False
        self._reaping: tuple[ModuleType, Any] | None = None
        self.hook = Hook(self.recorder)
        self._publishing = Publishing(self._publish_segment, self._sampler, self.recorder)

    def install(self) -> None:
        for signal, receiver in self._receivers():
            signal.connect(receiver, weak=False, dispatch_uid=_UID)
        self._publishing.install()

    def uninstall(self) -> None:
        for signal in (*(signal for signal, _ in self._receivers()), signals.task_received):
            signal.disconnect(dispatch_uid=_UID)
        self._publishing.uninstall()
        self.hook.uninstall()
        if self._reaping is not None:
            module, original = self._reaping
            module.os = original  # type: ignore[attr-defined]
            self._reaping = None
        ignore_collections()

    def recorder(self) -> Recorder | None:
        """The recorder of this very process; None in one that is not measured, and after a fork."""
        recorder = self._recorder
        return recorder if recorder is not None and recorder.segment is runtime.segment else None

    def watch_reaping(self, module: ModuleType) -> None:
        """Learn each child's CPU when billiard reaps it: afterwards the kernel has forgotten."""
        self._reaping = (module, module.os)
        module.os = _ReapingOs(module.os)  # type: ignore[attr-defined]

    def _receivers(self) -> list[tuple[Any, Any]]:
        return [
            (signals.worker_init, self._on_worker_init),
            (signals.celeryd_after_setup, self._on_after_setup),
            (signals.worker_ready, self._on_worker_ready),
            (signals.worker_process_init, self._on_child),
            (signals.worker_process_shutdown, self._on_child_shutdown),
            (signals.worker_shutdown, self._on_shutdown),
            (signals.task_revoked, self._on_revoked),
        ]

    def _sampler(self) -> Sample:
        if self._sample is None:
            self._sample = env_sampler()
        return self._sample

    def _on_worker_init(self, sender: Any = None, **_: Any) -> None:
        """In the main process of every worker; one that is a program of its own has not set up its logging yet."""
        self._in_worker = True
        self._main = os.getpid(), sender
        program = sys.modules.get("celery.apps.worker")
        if program is None or not isinstance(sender, program.Worker):
            self._prepare(sender)

    def _on_after_setup(self, instance: Any = None, **_: Any) -> None:
        """In the main process of a worker program, when its logging is set up."""
        self._prepare(instance)

    def _prepare(self, controller: Any) -> None:
        """Before the pool forks: children must find the directory of their main process."""
        try:
            pool = getattr(getattr(controller, "pool_cls", None), "__module__", "").rsplit(".", 1)[-1]
            if pool and pool not in _MEASURED_POOLS:
                log.warning("taskwatt does not measure the %r pool; this worker runs without it", pool)
                return
            with own_cost():
                self._sampler()  # imported before the fork, once for all children
                if runtime.become_owner(process_class("worker")) is None:
                    return
            carriers.say()
            serialization.refresh()
            watch_collections()
            self._measured_main = True
        except Exception as error:
            log.warning("taskwatt could not prepare this worker: %r", error, exc_info=error)

    def _on_worker_ready(self, sender: Any = None, **_: Any) -> None:
        """In the main process, after the pool forked: threads may start now."""
        try:
            if runtime.segment is None or not self._measured_main:
                return
            controller = getattr(sender, "controller", None)
            agent = runtime.start_agent(process_class("worker"), _service(sender), self._take_received)
            serialization.when_long(self._note_messages)
            if agent is not None and controller is not None:
                probe = _WorkerProbe(controller, sender)
                agent.slots, agent.attempts_carrier = probe.slots(), carriers.sentence()
                agent.add_probe(probe)
                agent.add_probe(_BacklogProbe(controller.app))
                log.info("taskwatt watches this worker (pid %d): spans, metrics and `taskwatt triage`", os.getpid())
        except Exception as error:
            log.warning("taskwatt could not start in this worker: %r", error, exc_info=error)

    def _on_child(self, **_: Any) -> None:
        """In a pool child (in the solo pool: the main process itself), before its first task."""
        self._in_worker = True
        pid, controller = self._main
        if pid == os.getpid():  # the solo pool is made before the program's setup has ended, but after its logging
            self._prepare(controller)
        try:
            segment = runtime.segment
            serves = segment is not None
            if segment is None:
                segment = runtime.become_child(process_class("worker"))
            if segment is not None:
                serialization.refresh()
                watch_collections()
                self._recorder = carriers.recorders()(segment, self._sampler(), serves=serves)
        except Exception as error:
            log.warning("taskwatt could not prepare this pool process: %r", error, exc_info=error)

    def _on_child_shutdown(self, **_: Any) -> None:
        """In a pool child that ends in order: its provider may still hold spans, and nothing runs at its exit."""
        try:
            if self.recorder() is not None:
                provider.flush(_FLUSH_S)
        except Exception as error:
            log.warning("taskwatt could not flush this pool process: %r", error, exc_info=error)

    def _on_shutdown(self, **_: Any) -> None:
        """In the main process, when the pool has ended."""
        self._recorder = None
        runtime.stop()

    def _note_messages(self) -> None:
        """Right before the first message is decoded that takes a while: the others are worth no look at each.

        What short ones take is shared by number and size, as all that the main process does.
        """
        if runtime.agent is not None:
            self._received_at = meter.outside_attempts()[0]
            signals.task_received.connect(self._on_received, weak=False, dispatch_uid=_UID)

    def _on_received(self, request: Any = None, **_: Any) -> None:
        """In the main process, for each message."""
        if self._blind:
            return
        try:
            self._note_received(request)
        except Exception as error:
            self._blind = True
            log.warning("taskwatt stopped noting what messages cost: %r", error, exc_info=error)

    def _note_received(self, request: Any) -> None:
        """What was spent on decoding since the last message was this one's."""
        decoded = meter.outside_attempts()[0]
        spent, self._received_at = decoded - self._received_at, decoded
        if spent > 0 and request is not None and len(self._received) < 1000:
            self._received[request.name] = self._received.get(request.name, 0.0) + spent

    def _take_received(self) -> Mapping[str, float]:
        received, self._received = self._received, {}
        return received

    def _on_revoked(self, request: Any = None, terminated: bool = False, **_: Any) -> None:
        if terminated and request is not None:
            runtime.note_ended(request.id, "REVOKED")

    def _publish_segment(self) -> SegmentWriter | None:
        """Where a publish is noted. A process that is no worker becomes an owner with its first publish.

        A worker of another pool does not: an agent that sees publishes and no attempts would call it healthy.
        """
        if runtime.segment is None and not self._in_worker:
            name: ProcessClass = "scheduler" if "beat" in sys.argv else "job"
            runtime.become_owner(process_class(name))
            if runtime.segment is not None:
                runtime.start_agent(process_class(name), f"{_program()}@{os.getpid()}")
        return runtime.segment


class _ReapingOs:
    """The module `os` as billiard's Popen sees it, but for `waitpid`, which also notes what the child had used."""

    def __init__(self, original: Any) -> None:
        self._original = original
        self._blind = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        reaped, status, usage = self._original.wait4(pid, options)
        if reaped and not self._blind:
            try:
                cpu_s = usage.ru_utime + usage.ru_stime
                runtime.note_death(reaped, Death(cpu_s, clocks.max_rss(usage), time.time_ns()))
            except Exception as error:
                self._blind = True
                log.warning("taskwatt cannot read the CPU of ended children: %r", error, exc_info=error)
        return reaped, status


class _WorkerProbe:
    """Pool slots and held-back messages, read from the worker's own objects."""

    def __init__(self, controller: Any, consumer: Any) -> None:
        self._controller, self._consumer = controller, consumer

    def slots(self) -> int:
        pool = getattr(self._controller, "pool", None)
        return int(getattr(pool, "num_processes", 0) or 0)

    def __call__(self) -> Iterable[Reading]:
        from celery.worker import state

        active, reserved = len(state.active_requests), len(state.reserved_requests)
        slots = self.slots()
        return [
            Reading("celery.worker.slots", min(active, slots), {"state": "busy"}),
            Reading("celery.worker.slots", max(0, slots - active), {"state": "idle"}),
            Reading("celery.worker.prefetched", max(0, reserved - active), {}),
            Reading("celery.worker.eta", self._eta(), {}),
        ]

    def _eta(self) -> int:
        """Messages waiting for their ETA: timer entries that carry a request."""
        timer = getattr(self._consumer, "timer", None)
        entries = list(getattr(getattr(timer, "schedule", None), "_queue", ()))
        return sum(1 for one in entries if getattr(getattr(one, "entry", one), "args", None) and _is_request(one))


class _BacklogProbe:
    def __init__(self, app: Any) -> None:
        self._backlog = Backlog(app)

    def __call__(self) -> Iterable[Reading]:
        for depth in self._backlog.measure():
            name = {"messaging.destination.name": depth.queue}
            yield Reading("celery.queue.depth", depth.ready, name)
            if depth.unacked is not None:
                yield Reading("celery.queue.unacked", depth.unacked, name)
            if depth.oldest_age_s is not None:
                yield Reading("celery.queue.oldest_age", depth.oldest_age_s, name)


def _is_request(scheduled: Any) -> bool:
    from celery.worker.request import Request

    arguments: Any = getattr(getattr(scheduled, "entry", scheduled), "args", ())
    return bool(arguments) and isinstance(arguments[0], Request)


def process_class(default: ProcessClass) -> ProcessClass:
    """TASKWATT_PROCESS_CLASS, or what the process evidently is."""
    return Settings.from_environ(os.environ).process_class or default


def _service(consumer: Any) -> str:
    """A worker's name, as `celery inspect` shows it.

    It stays when children are recycled and when the worker restarts. OTEL_SERVICE_NAME, which several workers may
    share, overrides its part before the @ in service.name, and does not name an instance.
    """
    return str(getattr(consumer, "hostname", "") or "celery")


def _program() -> str:
    """Of a process that is no worker; several of one program run at once (gunicorn), so its pid goes with it."""
    return os.path.basename(sys.argv[0] or "python")
