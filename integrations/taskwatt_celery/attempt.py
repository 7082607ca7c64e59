"""One record per attempt, into the segment of the executing process.

CPU is read four times: entry, body start, body end, exit. What the process used since its last attempt ended (handing
back that result, receiving and unpickling this message) is this attempt's too, so that nothing of a child's CPU is left
over.
"""

from __future__ import annotations

import json
import math
import resource
import threading
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from time import perf_counter, process_time, thread_time, time, time_ns
from typing import Any

from celery.exceptions import Reject

from taskwatt.code_sampler import CodeSampler, hottest
from taskwatt.export.context import OFFICIAL, PROVIDER, Sample, Scope, current, enter_attempt
from taskwatt.meter import meter
from taskwatt.observations import OUTCOMES, STATES
from taskwatt.segments import SegmentWriter, layout
from taskwatt.segments.records import SPILLED_ID, pack_task_id
from taskwatt_celery import headers
from taskwatt_celery.outcome import CANCELLED, FAILED, RETRIED, classify

_SUBPROCESS_MIN_S = 0.001
"""Nothing can be spawned and reaped in less; shorter attempts skip the two getrusage calls."""

_BACKGROUND_GAP_S = 0.0005
"""CPU between two attempts above which it is worth asking whether the pool's own thread used it."""

_pack = layout.RECORD.pack
NAN = math.nan
_NOTHING = (0.0,) * 6


class Running:
    """What is known of the attempt now running in this process."""

    __slots__ = (
        "args_hash", "attempt_no", "body", "body_cpu", "body_gc", "body_publish", "body_serialization", "cpu", "depth",
        "error", "finished_body", "flags", "gap", "hook_s", "id_bytes", "message", "nesting", "queue", "redelivered",
        "retries", "sampler", "scope", "size", "start", "start_ns", "task", "task_name", "wait",
    )  # fmt: skip

    task_name: str
    task: int
    message: Mapping[str, Any]
    attempt_no: int
    id_bytes: bytes
    flags: int
    start: float
    start_ns: int
    cpu: float
    gap: float
    hook_s: float
    redelivered: bool
    queue: int
    retries: int
    nesting: int
    depth: int
    size: int
    args_hash: int
    wait: float
    scope: Scope

    def __init__(self) -> None:
        self.body = False
        self.finished_body = False
        self.body_cpu = 0.0
        self.body_serialization = 0.0
        self.body_gc = 0.0
        self.body_publish = 0.0
        self.error: BaseException | None = None
        self.sampler: CodeSampler | None = None


class Recorder:
    """Writes one record per attempt into the segment of this process. One executing thread."""

    def __init__(self, segment: SegmentWriter, sample: Sample, children_s: float = 0.0) -> None:
        self.segment = segment
        self._sample = sample
        self._number = 0
        self._cpu_at_exit = process_time()
        self._thread_at_exit = thread_time()
        self._children_s = children_s or _children_cpu()
        self._serialization = meter.serialization
        self._gc = meter.gc
        self._publish = meter.publish
        self._hook_s = 0.0
        self._max_rss = _max_rss()
        self.running: Running | None = None
        segment.startup_cpu = self._cpu_at_exit
        segment.cpu_at_exit = self._cpu_at_exit
        segment.progress()

    def begin(self, task: str, task_id: str, request: dict[str, Any], body: Any) -> Running:
        """Called before the message is decoded. Nothing of the attempt has run yet."""
        clock = perf_counter()
        cpu = process_time()
        now_ns = time_ns()
        run = Running()
        run.cpu, run.start, run.start_ns = cpu, clock, now_ns
        run.gap = self._gap(cpu)
        self._number += 1
        run.attempt_no = self._number
        run.task_name = task
        run.task = self.segment.string(task)
        info: Mapping[str, Any] = request.get("delivery_info") or {}
        run.redelivered = bool(info.get("redelivered"))
        run.queue = self.segment.string(info.get("routing_key") or "")
        run.retries = min(int(request.get("retries") or 0), 0xFFFFFFFF)
        run.nesting = min(int(request.get("replaced_task_nesting") or 0), 0xFFFF)
        run.depth = headers.depth(request)
        run.size = len(body) if isinstance(body, (str, bytes)) else 0
        run.args_hash = _args_hash(request) if run.depth else 0
        run.wait = _queue_wait(request, now_ns)
        run.message = request
        run.scope = enter_attempt(task, request, headers.previous(request), now_ns, self._sample)
        packed = pack_task_id(task_id)
        run.id_bytes = packed or layout.NO_ID
        run.flags = layout.REDELIVERED if run.redelivered else 0
        spilled = (0, 0) if packed else self.segment.spill(json.dumps({SPILLED_ID: task_id}).encode())
        if not packed:
            run.flags |= layout.ID_SPILLED
        if run.scope.sampled:
            run.flags |= layout.SAMPLED
        self.segment.begin(
            self._payload(run, run.flags, 0.0, NAN, _NOTHING, 0, 0, spilled), self._number, cpu, self._children_s
        )
        if self.segment.asked_for_code_until() > now_ns:
            run.sampler = CodeSampler()
            run.sampler.start(threading.get_ident())
        self.running = run
        run.hook_s = perf_counter() - clock
        return run

    def end(self, run: Running, outcome: int, state: int, task_id: str) -> None:
        """Called when the result was stored, or when the attempt is being torn down by an exception."""
        clock = perf_counter()
        self.running = None
        cpu = process_time()
        duration = clock - run.start
        subprocesses = 0.0
        if duration > _SUBPROCESS_MIN_S:
            children_s = _children_cpu()
            subprocesses, self._children_s = children_s - self._children_s, children_s
            self._max_rss = _max_rss()
        split = self._split(run, cpu, subprocesses)
        delay = _retry_delay(run.error) if outcome == RETRIED else NAN
        flags, spilled = self._close_span(run, outcome, state, task_id, sum(split))
        run.flags = flags
        payload = self._payload(run, flags, duration, delay, split, outcome, state, spilled)
        if not self.segment.put(payload, run.attempt_no, cpu):
            first = not (run.retries or run.nesting or run.redelivered)
            key = (run.task, outcome, state)
            self.segment.overflow(key, run.attempt_no, cpu, (float(first), float(not first), *split))
        if run.sampler is not None:
            self._answer_code(run)
        self._cpu_at_exit = cpu
        self._thread_at_exit = thread_time()
        self._serialization, self._gc, self._publish = meter.serialization, meter.gc, meter.publish
        self._hook_s = perf_counter() - clock

    def _gap(self, cpu: float) -> float:
        """CPU since the last attempt that is this one's.

        That is handing back the last result, receiving and unpickling this message.
        Threads that outlived an earlier attempt burn here as well; theirs is booked to none.
        """
        gap = cpu - self._cpu_at_exit
        if gap > _BACKGROUND_GAP_S:
            own = thread_time() - self._thread_at_exit
            if own < gap:
                self.segment.none_cpu += gap - own
                gap = own
        return gap

    def _split(self, run: Running, cpu: float, subprocesses: float) -> tuple[float, ...]:
        left = cpu - run.cpu + run.gap
        left -= (agent := min(self._hook_s + run.hook_s, left))
        left -= (serialization := min(meter.serialization - self._serialization, left))
        left -= (collected := min(meter.gc - self._gc, left))
        if run.finished_body:
            business = run.body_cpu - run.body_serialization - run.body_gc - run.body_publish
        else:
            business = cpu - run.cpu - serialization - collected - agent
        business = max(0.0, min(business, left))
        return business, serialization, collected, left - business, agent, subprocesses

    def _payload(
        self,
        run: Running,
        flags: int,
        duration: float,
        delay: float,
        split: tuple[float, ...],
        outcome: int,
        state: int,
        spilled: tuple[int, int],
    ) -> bytes:
        scope = run.scope
        return _pack(
            layout.ATTEMPT,
            flags,
            run.task,
            run.id_bytes,
            *scope.context_ids,
            scope.parent_id,
            *scope.link_ids,
            run.start_ns,
            duration,
            run.wait,
            delay,
            *split,
            run.attempt_no,
            run.size,
            self._max_rss,
            run.retries,
            run.depth,
            run.nesting,
            run.queue,
            run.args_hash,
            outcome,
            state,
            layout.NO_STRING,
            spilled[1],
            spilled[0],
        )

    def _close_span(
        self, run: Running, outcome: int, state: int, task_id: str, cpu_s: float
    ) -> tuple[int, tuple[int, int]]:
        """End the attempt's span in its mode; flags of the record and where the user's data were spilled."""
        scope, flags = run.scope, run.flags
        data: dict[str, Any] = {SPILLED_ID: task_id} if flags & layout.ID_SPILLED else {}
        try:
            if scope.mode == OFFICIAL:
                flags |= layout.EXPORTED
            elif scope.mode == PROVIDER and scope.span is not None:
                flags |= layout.EXPORTED
                self._finish_user_span(run, outcome, state, task_id, cpu_s)
            recorded = scope.recorded()
            if recorded is not None:
                data.update(recorded.user_data(layout.SPILL_MAX - 1024))
                if run.error is not None and outcome in (FAILED, CANCELLED):
                    data["exception"] = _exception_type(run.error)
        finally:
            scope.leave()
            self.segment.span_mode(scope.mode)
        return flags, self.segment.spill(json.dumps(data).encode()) if data else (0, 0)

    def _finish_user_span(self, run: Running, outcome: int, state: int, task_id: str, cpu_s: float) -> None:
        from taskwatt.export.attributes import attempt_attributes, finish_span

        span = run.scope.span
        if span is None:
            return
        info: Mapping[str, Any] = run.message.get("delivery_info") or {}
        values = attempt_attributes(
            task=run.task_name,
            state=STATES[state],
            task_id=task_id,
            queue=info.get("routing_key") or "",
            attempt=run.retries + 1,
            outcome=OUTCOMES[outcome],
            cpu_s=cpu_s,
            serialization_s=meter.serialization - self._serialization,
            queue_wait_s=None if math.isnan(run.wait) else run.wait,
            redelivered=run.redelivered,
            max_rss=self._max_rss,
            body_size=run.size,
        )
        finish_span(span, values, run.error if outcome in (FAILED, CANCELLED) else None)

    def enrich_official(self, run: Running) -> None:
        """Put what is known at the end of the body on the official instrumentation's span, which ends before we do."""
        from taskwatt.export.attributes import attempt_attributes

        _, span = current()
        if not span.is_recording():
            return
        outcome, state = classify(run.error, run.task_name)
        cpu_s = process_time() - run.cpu + run.gap
        values = attempt_attributes(
            task=run.task_name,
            state=STATES[state],
            task_id="",
            queue="",
            attempt=run.retries + 1,
            outcome=OUTCOMES[outcome],
            cpu_s=cpu_s,
            serialization_s=meter.serialization - self._serialization,
            queue_wait_s=None if math.isnan(run.wait) else run.wait,
            redelivered=run.redelivered,
            max_rss=self._max_rss,
            body_size=run.size,
        )
        span.set_attributes({key: value for key, value in values.items() if value != ""})

    def _answer_code(self, run: Running) -> None:
        sampler, run.sampler = run.sampler, None
        site = hottest(sampler.stop(), run.task_name) if sampler is not None else None
        if site is not None:
            self.segment.code(run.task, run.task, site.function, site.file, site.line, site.weight, site.samples)


def publishing_scope(recorder: Recorder | None) -> tuple[str, str, int, Scope] | None:
    """(task id, task name, depth, scope) of the attempt that is publishing; None outside of one."""
    run = recorder.running if recorder is not None else None
    return (run.message.get("id", ""), run.task_name, run.depth, run.scope) if run is not None else None


def _args_hash(request: dict[str, Any]) -> int:
    """Tells repeated arguments apart from new ones; asked only of a task that was published by its own kind.

    Of the representation that the message carries, never of the values.
    """
    text = f"{request.get('argsrepr')}{request.get('kwargsrepr')}"
    return zlib.crc32(text.encode("utf-8", "replace"))


def _queue_wait(request: dict[str, Any], now_ns: int) -> float:
    published = headers.published(request)
    if published is None:
        return NAN
    eta = request.get("eta")
    if eta:
        try:
            at = datetime.fromisoformat(eta)
            published = max(published, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
        except (TypeError, ValueError):
            return NAN
    return now_ns / 1e9 - published


def _retry_delay(error: BaseException | None) -> float:
    when = getattr(error, "when", None)
    if isinstance(when, (int, float)):
        return float(when)
    if isinstance(when, datetime):
        return max(0.0, when.timestamp() - time())
    return 0.0 if isinstance(error, Reject) else NAN


def _exception_type(error: BaseException) -> list[str]:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return [name, str(error)[:500]]


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _max_rss() -> int:
    """Bytes; Linux reports kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
