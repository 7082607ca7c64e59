"""One record per attempt, into the segment of the executing process.

CPU is read four times: entry, body start, body end, exit. What the process used since its last attempt ended (handing
back that result, receiving and unpickling this message) is this attempt's too, so that nothing of a child's CPU is left
over.
"""

from __future__ import annotations

import json
import math
import resource
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from time import perf_counter, process_time, thread_time, time, time_ns
from typing import Any

from celery.exceptions import Reject

from taskwatt import clocks
from taskwatt.code_sampler import CodeSampler
from taskwatt.export.attributes import Value, attempt_attributes, finish_span
from taskwatt.export.context import OFFICIAL, PROVIDER, Sample, Scope, current, enter_attempt
from taskwatt.meter import meter
from taskwatt.observations import OUTCOMES, STATES
from taskwatt.segments import SegmentWriter, layout
from taskwatt.segments.records import SPILLED_ID, pack_task_id
from taskwatt_celery import failure, headers
from taskwatt_celery.code_answers import CodeAnswers
from taskwatt_celery.outcome import CANCELLED, FAILED, RETRIED, classify
from taskwatt_celery.threads import Before, others

_SUBPROCESS_MIN_S = 0.001
"""Nothing can be spawned and reaped in less; shorter attempts skip the two getrusage calls."""

_BACKGROUND_GAP_S = 0.0005
"""CPU between two attempts above which it is worth asking whether the pool's own thread used it."""

_HOOK_EVERY = 16
"""The hook's own CPU is measured in one of so many attempts: the clock reads would add a sixth."""

_pack = layout.pack_record
NAN = math.nan
_NOTHING = (0.0,) * 6


class Running:
    """What is known of the attempt now running in this process."""

    __slots__ = (
        "args_hash", "attempt_no", "body", "body_cpu", "body_gc", "body_others", "body_publish", "body_serialization",
        "cpu", "depth", "error", "expected", "finished_body", "flags", "gap", "hook_s", "id_bytes", "message",
        "nesting", "others", "queue", "queue_name", "redelivered", "retries", "sampler", "sampling_s", "scope", "size",
        "start", "start_ns", "task", "task_name", "wait",
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
    others: Before | None
    redelivered: bool
    queue: int
    queue_name: str
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
        self.body_others = 0.0
        self.hook_s = 0.0
        self.sampling_s = 0.0
        self.error: BaseException | None = None
        self.expected = False
        self.sampler: CodeSampler | None = None

    def others_s(self) -> float:
        """CPU seconds on the process's clock since the attempt began that are not the attempt's."""
        return sum(self.others.used()) if self.others is not None else 0.0


class Recorder:
    """Writes one record per attempt into the segment of this process. One executing thread."""

    def __init__(
        self, segment: SegmentWriter, sample: Sample, children_s: float = 0.0, *, serves: bool = False
    ) -> None:
        """`serves`: this process also receives and acknowledges what it executes (the solo pool)."""
        self._serves = serves
        self.segment = segment
        self._sample = sample
        self._number = 0
        self._cpu_at_exit = process_time()
        self._thread_at_exit = thread_time()
        self._children_s = children_s or _children_cpu()
        self._note_meter()
        self._hook_s = 0.0
        self._max_rss = _max_rss()
        self._code = CodeAnswers(segment)
        self.running: Running | None = None
        segment.startup_cpu = self._cpu_at_exit
        segment.cpu_at_exit = self._cpu_at_exit
        segment.progress()

    def begin(self, task: str, task_id: str, request: dict[str, Any], body: Any) -> Running:
        """Called before the message is decoded. Nothing of the attempt has run yet."""
        clock = perf_counter()
        measured = self._number % _HOOK_EVERY == 1
        entered = thread_time() if measured else 0.0
        cpu = process_time()
        now_ns = time_ns()
        run = Running()
        run.cpu, run.start, run.start_ns = cpu, clock, now_ns
        if self._serves:
            run.gap = 0.0  # what the process did meanwhile is apportioned as a main process's
            self._note_meter()
            meter.enter_attempt()
        else:
            run.gap = self._gap(cpu)
        run.others = others()
        self._number += 1
        run.attempt_no = self._number
        run.task_name = task
        run.task = self.segment.string(task)
        run.queue_name, run.redelivered, run.retries, run.nesting, run.depth, published, previous = headers.read(
            request
        )
        run.queue = self.segment.string(run.queue_name)
        run.size = len(body) if isinstance(body, (str, bytes)) else 0
        run.args_hash = _args_hash(request) if run.depth else 0
        run.wait = _queue_wait(published, request.get("eta"), now_ns)
        run.message = request
        run.scope = enter_attempt(task, request, previous, now_ns, self._sample)
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
        asked_until = self.segment.asked_for_code_until()
        if asked_until > now_ns:
            starting = thread_time()
            run.sampler = self._code.sampler(run.task, asked_until)
            run.sampling_s = thread_time() - starting
        self.running = run
        if measured and run.sampler is None:
            run.hook_s = thread_time() - entered
        return run

    def end(self, run: Running, outcome: int, state: int, task_id: str) -> None:
        """Called when the result was stored, or when the attempt is being torn down by an exception."""
        clock = perf_counter()
        entered = thread_time()
        self.running = None
        samples = None
        sampler_s = 0.0
        if run.sampler is not None:
            samples = run.sampler.stop()
            sampler_s = samples.agent_cpu_s
            entered, before = thread_time(), entered
            run.sampling_s += sampler_s + entered - before
        cpu = process_time()
        duration = clock - run.start
        subprocesses = 0.0
        foreign, ours = run.others.used() if run.others is not None else (0.0, 0.0)
        if foreign and not self._serves:
            self.segment.none_cpu += foreign
        if duration > _SUBPROCESS_MIN_S:
            children_s = _children_cpu()
            subprocesses, self._children_s = children_s - self._children_s, children_s
            self._max_rss = _max_rss()
        split = self._split(run, cpu, foreign + ours, sampler_s, subprocesses)
        delay = _retry_delay(run.error) if outcome == RETRIED else NAN
        flags, spilled = self._close_span(run, outcome, state, task_id, sum(split))
        run.flags = flags
        payload = self._payload(run, flags, duration, delay, split, outcome, state, spilled)
        if not self.segment.put(payload, run.attempt_no, cpu):
            first = not (run.retries or run.nesting or run.redelivered)
            key = (run.task, outcome, state)
            self.segment.overflow(key, run.attempt_no, cpu, (float(first), float(not first), *split))
        if samples is not None:
            self._code.tell(run.task, samples)
        self._cpu_at_exit = cpu
        self._thread_at_exit = entered
        self._note_meter()
        if self._serves:
            meter.leave_attempt()
        if run.hook_s:
            self._note_hook(run.hook_s + thread_time() - entered)

    def _note_hook(self, seconds: float) -> None:
        """One measured round of this hook; a page fault or a collection in it does not stand for all rounds."""
        usual = self._hook_s
        self._hook_s = usual + (min(seconds, 3 * usual) - usual) / 4 if usual else seconds

    def _note_meter(self) -> None:
        """What is measured from here on is the next attempt's."""
        self._serialization, self._gc, self._publish = meter.serialization, meter.gc, meter.publish

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

    def _split(
        self, run: Running, cpu: float, others_s: float, sampler_s: float, subprocesses: float
    ) -> tuple[float, ...]:
        """`others_s`: on the process's clock, but not this attempt's. `sampler_s`: of it, but not the body's."""
        left = max(0.0, cpu - run.cpu - others_s) + run.gap
        left -= (agent := min(self._hook_s + run.sampling_s, left))
        left -= (serialization := min(meter.serialization - self._serialization, left))
        left -= (collected := min(meter.gc - self._gc, left))
        if run.finished_body:
            business = run.body_cpu - run.body_serialization - run.body_gc - run.body_publish
            business -= run.body_others + sampler_s
        else:
            business = cpu - run.cpu - others_s - serialization - collected - agent
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
            if run.expected:
                flags |= layout.EXPECTED
            recorded = scope.recorded()
            if recorded is not None:
                data.update(recorded.user_data(layout.SPILL_MAX - 1024))
                if run.error is not None and outcome in (FAILED, CANCELLED) and not run.expected:
                    data["exception"] = [failure.kind(run.error), failure.message(run.error)]
        finally:
            scope.leave()
            self.segment.span_mode(scope.mode)
        return flags, self.segment.spill(json.dumps(data).encode()) if data else (0, 0)

    def _attributes(self, run: Running, outcome: int, state: int, task_id: str, cpu_s: float) -> dict[str, Value]:
        return attempt_attributes(
            task=run.task_name,
            state=STATES[state],
            task_id=task_id,
            queue=run.queue_name,
            attempt=run.retries + 1,
            outcome=OUTCOMES[outcome],
            cpu_s=cpu_s,
            serialization_s=meter.serialization - self._serialization,
            queue_wait_s=None if math.isnan(run.wait) else run.wait,
            redelivered=run.redelivered,
            max_rss=self._max_rss,
            body_size=run.size,
        )

    def _finish_user_span(self, run: Running, outcome: int, state: int, task_id: str, cpu_s: float) -> None:
        span = run.scope.span
        if span is None:
            return
        error = run.error if outcome in (FAILED, CANCELLED) and not run.expected else None
        told = (failure.kind(error), failure.message(error), failure.stacktrace(error)) if error is not None else None
        finish_span(span, self._attributes(run, outcome, state, task_id, cpu_s), told)

    def enrich_official(self, run: Running) -> None:
        """Put what is known at the end of the body on the official instrumentation's span, which ends before we do."""
        _, span = current()
        if not span.is_recording():
            return
        outcome, state = classify(run.error, run.task_name)
        cpu_s = process_time() - run.cpu + run.gap
        values = self._attributes(run, outcome, state, str(run.message.get("id") or ""), cpu_s)
        span.set_attributes({key: value for key, value in values.items() if value != ""})


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


def _queue_wait(published: float, eta: Any, now_ns: int) -> float:
    """NaN when it is not known when the message was published."""
    if eta:
        try:
            at = datetime.fromisoformat(eta)
            published = max(published, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
        except (TypeError, ValueError, OverflowError):
            return NAN
    return now_ns / 1e9 - published


def _retry_delay(error: BaseException | None) -> float:
    when = getattr(error, "when", None)
    if isinstance(when, (int, float)):
        return float(when)
    if isinstance(when, datetime):
        return max(0.0, when.timestamp() - time())
    return 0.0 if isinstance(error, Reject) else NAN


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _max_rss() -> int:
    return clocks.max_rss(resource.getrusage(resource.RUSAGE_SELF))
