"""Every message that this process hands to a broker: its headers, its CPU, its PRODUCER span.

Hooked by signals: `before_task_publish` (headers may still be changed in place) and `after_task_publish` (does not fire
when the publish failed). What the second needs of the first travels in a small stack per thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import thread_time, time_ns
from typing import Any

from celery import signals

from taskwatt.export.context import PROVIDER, Sample, Scope, enter_publish, traceparent
from taskwatt.meter import meter
from taskwatt.segments import SegmentWriter, layout
from taskwatt.segments.records import pack_task_id
from taskwatt_celery import headers as ours
from taskwatt_celery.attempt import Recorder, publishing_scope

log = logging.getLogger("taskwatt")


class _Pending(threading.local):
    publish: tuple[Any, ...] | None = None


class Publishing:
    """The two receivers.

    `segment` gives where records go (creating it at the first publish), None when nothing is kept.
    """

    def __init__(
        self,
        segment: Callable[[], SegmentWriter | None],
        sample: Callable[[], Sample],
        recorder: Callable[[], Recorder | None],
    ) -> None:
        self._segment, self._sample, self._recorder = segment, sample, recorder
        self._pending = _Pending()
        self._failed = False

    def install(self) -> None:
        signals.before_task_publish.connect(self._before, weak=False, dispatch_uid="taskwatt")
        signals.after_task_publish.connect(self._after, weak=False, dispatch_uid="taskwatt")

    def uninstall(self) -> None:
        signals.before_task_publish.disconnect(dispatch_uid="taskwatt")
        signals.after_task_publish.disconnect(dispatch_uid="taskwatt")

    def _before(self, sender: Any = None, headers: dict[str, Any] | None = None, **_: Any) -> None:
        if self._failed or not headers or "id" not in headers:  # protocol 1 carries no headers
            return
        try:
            self._begin(str(headers.get("task") or sender), headers)
        except Exception as error:
            self._disable(error)

    def _after(self, headers: dict[str, Any] | None = None, routing_key: str | None = None, **_: Any) -> None:
        pending, self._pending.publish = self._pending.publish, None
        if pending is None or not headers or headers.get("id") != pending[0]:
            return
        try:
            self._finish(pending, routing_key or "")
        except Exception as error:
            self._disable(error)

    def _disable(self, error: Exception) -> None:
        self._failed = True
        log.warning("taskwatt stopped watching publishes in this process: its hook failed: %r", error, exc_info=error)

    def _begin(self, task: str, headers: dict[str, Any]) -> None:
        now_ns = time_ns()
        task_id = headers["id"]
        publisher, depth, retry = "", 0, False
        attempt = publishing_scope(self._recorder())
        if attempt is not None:
            current_id, publisher, current_depth, scope = attempt
            retry = current_id == task_id
            if retry:
                headers[ours.PREVIOUS] = traceparent(scope.context)
            depth = current_depth if retry else current_depth + 1 if publisher == task else 0
        if not retry:
            headers.pop(ours.PREVIOUS, None)
        headers[ours.PUBLISHED] = now_ns / 1e9
        if depth:
            headers[ours.DEPTH] = depth
        else:
            headers.pop(ours.DEPTH, None)
        scope = enter_publish(task, headers, now_ns, self._sample(), retry)
        spent = (thread_time(), meter.serialization, meter.gc)
        self._pending.publish = (task_id, task, publisher, depth, retry, scope, now_ns, spent)

    def _finish(self, pending: tuple[Any, ...], queue: str) -> None:
        task_id, task, publisher, depth, retry, scope, start_ns, spent = pending
        cpu, serialization, collected = spent
        net = thread_time() - cpu - (meter.serialization - serialization) - (meter.gc - collected)
        meter.publish += max(0.0, net)
        self._end_span(scope, task, task_id, queue)
        segment = self._segment()
        if segment is None:
            return
        segment.put(_record(segment, task_id, task, publisher, depth, retry, scope, start_ns, queue), 0, 0.0)

    def _end_span(self, scope: Scope, task: str, task_id: str, queue: str) -> None:
        if scope.mode == PROVIDER and scope.span is not None:
            from taskwatt.export.attributes import publish_attributes

            scope.span.set_attributes(publish_attributes(task, task_id, queue))
            scope.span.end()


def _record(
    segment: SegmentWriter,
    task_id: str,
    task: str,
    publisher: str,
    depth: int,
    retry: bool,
    scope: Scope,
    start_ns: int,
    queue: str,
) -> bytes:
    from taskwatt.export.context import OWN

    packed = pack_task_id(task_id)
    flags = (layout.SAMPLED if scope.sampled else 0) | (layout.RETRY_PUBLISH if retry else 0)
    flags |= (0 if scope.mode == OWN else layout.EXPORTED) | (0 if packed else layout.ID_SPILLED)
    begun = layout.pack_begun(
        layout.PUBLISH, flags, segment.string(task), packed or b"", *scope.context_ids, scope.parent_id, layout.NO_ID,
        layout.NO_SPAN, start_ns, 0.0, 0, 0, 0, depth, 0, segment.string(queue), 0,
        segment.string(publisher) if publisher else layout.NO_STRING,
    )  # fmt: skip
    return begun + layout.pack_ended((time_ns() - start_ns) / 1e9, 0.0, *_NO_CPU, 0, 0, 0, 0, 0)


_NO_CPU = (0.0,) * 6
