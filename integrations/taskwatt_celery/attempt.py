"""One record per attempt, into the segment of the executing process.

CPU is read at the body's start, its end, and the exit. What the process used since its last attempt ended (handing back
that result, receiving and unpickling this message) is this attempt's too, so that nothing of a child's CPU is left
over; where other threads may have burned meanwhile, or the process has waited, the entry is read as well.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import zlib
from datetime import UTC, datetime
from threading import active_count
from time import perf_counter, process_time, thread_time, time, time_ns
from typing import Any

from celery.exceptions import Reject

from taskwatt import clocks
from taskwatt.code_sampler import CodeSampler, Samples
from taskwatt.export.attributes import Value, attempt_attributes, finish_span
from taskwatt.export.context import OFFICIAL, OFFICIAL_MODULE, OWN, PROVIDER, Sample, Scope, current, enter_attempt
from taskwatt.meter import meter
from taskwatt.observations import OUTCOMES, STATES
from taskwatt.segments import SegmentWriter, layout
from taskwatt.segments.layout import pack_begun, pack_ended
from taskwatt.segments.records import SPILLED_ID, pack_task_id
from taskwatt_celery import failure, headers
from taskwatt_celery.code_answers import CodeAnswers
from taskwatt_celery.outcome import CANCELLED, FAILED, RETRIED, classify, is_expected
from taskwatt_celery.running import Running
from taskwatt_celery.threads import others

SUBPROCESS_MIN_S = 0.001
"""Nothing can be spawned and reaped in less; shorter attempts skip the two getrusage calls."""

THREADS_MIN_S = 0.001
"""Libraries do not come to their thread pools in less; shorter attempts are not asked for threads but Python's."""

_BACKGROUND_GAP_S = 0.0005
"""CPU between two attempts above which it is worth asking whether the pool's own thread used it."""

WAITED_S = 0.005
"""Between two attempts of a busy child lies less; one that has waited for longer, maybe for hours, has polled.

An attempt that is killed is charged from the reading that it began with: never with more than this of what was before.
"""

HOOK_EVERY = 16
"""The hook's own CPU is measured in one of so many attempts: the clock reads would add a sixth."""

NAN = math.nan
_NOTHING = (0.0,) * 6
_NOT_SPILLED = (0, 0)


class Recorder:
    """Writes one record per attempt into the segment of this process. One executing thread."""

    __slots__ = (
        "_children_s", "_code", "_cpu_at_exit", "_exit", "_gc", "_hook_s", "_max_rss", "_native_threads",
        "_nothing_yet", "_number", "_sample", "_serialization", "_serves", "_span_mode", "_thread_at_exit", "running",
        "segment",
    )  # fmt: skip

    def __init__(
        self, segment: SegmentWriter, sample: Sample, children_s: float = 0.0, *, serves: bool = False
    ) -> None:
        """`serves`: this process also receives and acknowledges what it executes (the solo pool)."""
        self._serves = serves
        self.segment = segment
        self._sample = sample
        self._number = 0
        # In this order: what lies between the two readings would look like another thread's.
        self._thread_at_exit: float | None = thread_time()
        """None: it was the only thread, so all that the process uses until the next attempt is that one's."""
        self._cpu_at_exit = process_time()
        self._exit = perf_counter()
        self._native_threads = not clocks.is_single_threaded()
        self._children_s = children_s or _children_cpu()
        self._note_meter()
        self._hook_s = 0.0
        self._span_mode = 0
        self._note_rss()
        self._code = CodeAnswers(segment)
        self.running: Running | None = None
        segment.startup_cpu = self._cpu_at_exit
        segment.cpu_at_exit = self._cpu_at_exit
        segment.progress()

    def begin(self, task: str, task_id: str, request: dict[str, Any], body: Any) -> Running:
        """Called before the message is decoded. Nothing of the attempt has run yet."""
        clock = perf_counter()
        number = self._number = self._number + 1
        measured = number % HOOK_EVERY == 2
        entered = thread_time() if measured else 0.0
        now_ns = time_ns()
        segment = self.segment
        run = Running()
        run.task_name, run.message, run.attempt_no, run.start = task, request, number, clock
        run.body = run.finished_body = run.expected = False
        run.body_cpu = run.hook_s = run.sampling_s = 0.0
        run.error = run.sampler = run.others = None
        if self._thread_at_exit is not None or clock - self._exit > WAITED_S or self._serves:
            self._begin_apart(run)
        else:
            run.cpu, run.gap = self._cpu_at_exit, 0.0
        queue, redelivered, retries, nesting, depth, published, previous = headers.read(request)
        eta = request.get("eta")
        wait = _wait_since_eta(published, eta, now_ns) if eta else now_ns / 1e9 - published
        size = len(body) if isinstance(body, (str, bytes)) else 0
        run.redelivered, run.depth, run.wait, run.size = redelivered, depth, wait, size
        scope = run.scope = enter_attempt(task, request, previous, now_ns, self._sample)
        flags = (layout.SAMPLED if scope.sampled else 0) | (layout.REDELIVERED if redelivered else 0)
        packed, nothing_yet = pack_task_id(task_id), self._nothing_yet
        if packed is None:
            flags |= layout.ID_SPILLED
            packed, nothing_yet = b"", self._unfinished(segment.spill(json.dumps({SPILLED_ID: task_id}).encode()))
        run.flags = flags
        run.task = segment.string(task)
        trace_id, span_id = scope.context_ids
        link_trace_id, link_span_id = scope.link_ids
        run.begun = pack_begun(
            layout.ATTEMPT, flags, run.task, packed, trace_id, span_id, scope.parent_id, link_trace_id, link_span_id,
            now_ns, wait, number, size, retries, depth, nesting, segment.string(queue),
            _args_hash(request) if depth else 0, layout.NO_STRING,
        )  # fmt: skip
        segment.begin(run.begun + nothing_yet, number, run.cpu, self._children_s)
        asked_until = segment.asked_for_code_until()
        if asked_until > now_ns:
            self._sample_code(run, asked_until)
        self.running = run
        if measured and run.sampler is None:
            run.hook_s = thread_time() - entered
        return run

    def _begin_apart(self, run: Running) -> None:
        """What the process used between two attempts may not be this one's, or not its body's."""
        run.cpu = cpu = process_time()
        if self._serves:
            run.gap = 0.0  # what the process did meanwhile is apportioned as a main process's
            self._note_meter()
            meter.enter_attempt()
        else:
            run.gap = self._gap(cpu)
        run.others = others()

    def _sample_code(self, run: Running, until_ns: int) -> None:
        """The drainer asks for lines of code; whether this task's are needed is for `CodeAnswers` to say."""
        starting = thread_time()
        run.sampler = self._code.sampler(run.task, until_ns)
        run.sampling_s = thread_time() - starting

    def enter_body(self) -> Running | None:
        """Called right before the task's function; None when there is nothing to measure (nested, or not ours)."""
        run = self.running
        if run is None or run.body:
            return None
        run.body = True
        if OFFICIAL_MODULE in sys.modules:
            run.scope.uncover()
        cpu = process_time()
        run.body_cpu = cpu - meter.named()
        if run.others is not None:
            run.body_cpu -= run.others_s()
        self.segment.body(run.attempt_no, cpu)
        return run

    def leave_body(self, run: Running, task: Any) -> None:
        """Called right after it, however it ended; its exception is under way."""
        run.body_cpu = process_time() - meter.named() - run.body_cpu
        if run.others is not None:
            run.body_cpu -= run.others_s()
        run.finished_body = True
        if run.error is not None:
            run.expected = is_expected(run.error, task)
        if OFFICIAL_MODULE in sys.modules:
            run.scope.cover()
            if run.scope.mode == OFFICIAL:
                self.enrich_official(run)

    def end_plainly(self, run: Running, result: tuple[Any, ...] | None) -> bool:  # noqa: ARG002
        """End an attempt about whose end nothing is unusual. False, with nothing done: it is `end` that ends this one.

        Only the accelerator knows such a shorter way.
        """
        return False

    def end(self, run: Running, outcome: int, state: int, task_id: str) -> None:
        """Called when the result was stored, or when the attempt is being torn down by an exception."""
        clock = self._exit = perf_counter()
        entered = thread_time() if run.hook_s else 0.0
        self.running = None
        samples = None if run.sampler is None else _stopped(run.sampler, run)
        duration = clock - run.start
        if duration > THREADS_MIN_S:
            self._look_for_threads()
        cpu = process_time()
        self._thread_at_exit = thread_time() if self._native_threads or active_count() > 1 else None
        subprocesses = 0.0
        foreign, ours = run.others.used() if run.others is not None else (0.0, 0.0)
        if foreign and not self._serves:
            self.segment.none_cpu += foreign
        if duration > SUBPROCESS_MIN_S:
            subprocesses = self._reaped()
        sampler_s = samples.agent_cpu_s if samples is not None else 0.0
        split = self._split(run, cpu, foreign + ours, sampler_s, subprocesses)
        delay = _retry_delay(run.error) if outcome == RETRIED else NAN
        flags, (at, length) = self._close_span(run, outcome, state, task_id, split)
        begun = run.begun if flags == run.flags else layout.with_flags(run.begun, flags)
        payload = begun + pack_ended(duration, delay, *split, self._max_rss, outcome, state, length, at)
        if not self.segment.put(payload, run.attempt_no, cpu):
            self._overflow(run, outcome, state, cpu, split)
        if samples is not None:
            self._code.tell(run.task, samples)
        self._cpu_at_exit = cpu
        self._note_meter()
        if self._serves:
            meter.leave_attempt()
        if run.hook_s:
            self._note_hook(run.hook_s + thread_time() - entered)

    def _look_for_threads(self) -> None:
        self._native_threads = not clocks.is_single_threaded()

    def _reaped(self) -> float:
        """CPU seconds of the children that were reaped since the last call; notes the largest resident size as well."""
        before, self._children_s = self._children_s, _children_cpu()
        self._note_rss()
        return self._children_s - before

    def _note_hook(self, seconds: float) -> None:
        """One measured round of this hook; a page fault or a collection in it does not stand for all rounds."""
        usual = self._hook_s
        self._hook_s = usual + (min(seconds, 3 * usual) - usual) / 4 if usual else seconds

    def _note_meter(self) -> None:
        """What is measured from here on is the next attempt's."""
        self._serialization, self._gc = meter.serialization, meter.collected[0]

    def _gap(self, cpu: float) -> float:
        """CPU since the last attempt that is this one's.

        That is handing back the last result, receiving and unpickling this message.
        Threads that outlived an earlier attempt burn here as well; theirs is booked to none.
        """
        gap = cpu - self._cpu_at_exit
        if gap > _BACKGROUND_GAP_S and self._thread_at_exit is not None:
            own = thread_time() - self._thread_at_exit
            if own < gap:
                self.segment.none_cpu += gap - own
                gap = own
        return gap

    def _split(
        self, run: Running, cpu: float, others_s: float, sampler_s: float, subprocesses: float
    ) -> tuple[float, ...]:
        """`others_s`: on the process's clock, but not this attempt's. `sampler_s`: of it, but not the body's."""
        left = cpu - run.cpu - others_s + run.gap
        agent = self._hook_s + run.sampling_s
        serialization, collected = meter.serialization - self._serialization, meter.collected[0] - self._gc
        if run.finished_body:
            business = run.body_cpu - sampler_s
        else:
            business = cpu - run.cpu - others_s - serialization - collected - agent
        framework = left - agent - serialization - collected - business
        if framework < 0.0 or business < 0.0:  # two clocks, read one after the other
            left = max(left, run.gap)
            left -= (agent := min(agent, left))
            left -= (serialization := min(serialization, left))
            left -= (collected := min(collected, left))
            business = max(0.0, min(business, left))
            framework = left - business
        return business, serialization, collected, framework, agent, subprocesses

    def _note_rss(self) -> None:
        self._max_rss = _max_rss()
        self._nothing_yet = self._unfinished((0, 0))

    def _unfinished(self, spilled: tuple[int, int]) -> bytes:
        """The second half of a record as long as its attempt runs."""
        at, length = spilled
        return pack_ended(0.0, NAN, *_NOTHING, self._max_rss, 0, 0, length, at)

    def _overflow(self, run: Running, outcome: int, state: int, cpu: float, split: tuple[float, ...]) -> None:
        _, redelivered, retries, nesting, *_ = headers.read(run.message)
        first = not (retries or nesting or redelivered)
        key = (run.task, outcome, state)
        self.segment.overflow(key, run.attempt_no, cpu, (float(first), float(not first), *split))

    def _close_span(
        self, run: Running, outcome: int, state: int, task_id: str, split: tuple[float, ...]
    ) -> tuple[int, tuple[int, int]]:
        """End the attempt's span in its mode; flags of the record and where the user's data were spilled."""
        scope, flags, recorded = run.scope, run.flags, run.scope.recorded
        untouched = recorded is None or recorded.kept is None
        if untouched and run.error is None and scope.mode == self._span_mode == OWN and not flags & layout.ID_SPILLED:
            scope.leave()
            return flags, _NOT_SPILLED
        data: dict[str, Any] = {SPILLED_ID: task_id} if flags & layout.ID_SPILLED else {}
        try:
            if scope.mode == OFFICIAL:
                flags |= layout.EXPORTED
            elif scope.mode == PROVIDER and scope.span is not None:
                flags |= layout.EXPORTED
                self._finish_user_span(run, outcome, state, task_id, sum(split))
            if run.expected:
                flags |= layout.EXPECTED
            if recorded is not None:
                if recorded.kept is not None:
                    data.update(recorded.user_data(layout.SPILL_MAX - 1024))
                if run.error is not None and outcome in (FAILED, CANCELLED) and not run.expected:
                    data["exception"] = [failure.kind(run.error), failure.message(run.error)]
        finally:
            scope.leave()
            if scope.mode != self._span_mode:
                self._span_mode = scope.mode
                self.segment.span_mode(scope.mode)
        return flags, self.segment.spill(json.dumps(data).encode()) if data else _NOT_SPILLED

    def _attributes(self, run: Running, outcome: int, state: int, task_id: str, cpu_s: float) -> dict[str, Value]:
        queue, redelivered, retries, *_ = headers.read(run.message)
        return attempt_attributes(
            task=run.task_name,
            state=STATES[state],
            task_id=task_id,
            queue=queue,
            attempt=retries + 1,
            outcome=OUTCOMES[outcome],
            cpu_s=cpu_s,
            serialization_s=meter.serialization - self._serialization,
            queue_wait_s=None if math.isnan(run.wait) else run.wait,
            redelivered=redelivered,
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


def _wait_since_eta(published: float, eta: Any, now_ns: int) -> float:
    """NaN when it is not known when the message was published."""
    try:
        at = datetime.fromisoformat(eta)
        published = max(published, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
    except (TypeError, ValueError, OverflowError):
        return NAN
    return now_ns / 1e9 - published


def _stopped(sampler: CodeSampler, run: Running) -> Samples:
    """What was seen; the cost of looking is the agent's."""
    stopping = thread_time()
    samples = sampler.stop()
    run.sampling_s += samples.agent_cpu_s + thread_time() - stopping
    return samples


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
