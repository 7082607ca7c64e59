"""Time limits and alarms are exceptions that arrive anywhere, also in code of ours: they belong to the user's."""

from __future__ import annotations

import gc
import signal
import time
import weakref
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from types import FrameType
from typing import Any

import pytest

from taskwatt.interruption import raised_by_a_signal
from taskwatt.meter import ignore_collections, meter, timed, watch_collections
from tests.harm.breakage import LIMITS
from tests.harm.conftest import StartWorker
from tests.support.processes import wait_for
from tests.support.receiver import Receiver


class Alarm(Exception):
    """What the user's handler raises."""


@pytest.fixture
def alarm() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


class Node:
    """Part of a cycle that only the collector frees."""

    def __init__(self) -> None:
        self.me = self


@pytest.mark.parametrize("watched", [False, True])
def test_an_alarm_that_rings_during_a_collection_reaches_the_code_that_runs(alarm: None, watched: bool) -> None:
    """The alarm is set off by C code within the collection, so that it always falls into it."""
    gc.collect()  # finalizers of what other tests left would swallow the alarm as well
    node = Node()
    set_alarm = map(signal.setitimer, repeat(signal.ITIMER_REAL), repeat(0.000001))
    reference = weakref.ref(node, partial(next, set_alarm))
    others = [Node() for _ in range(50_000)]
    rang = False
    if watched:
        watch_collections()
    try:
        del node, others
        gc.collect()
        time.sleep(5)
    except Alarm:
        rang = True
    finally:
        ignore_collections()
    assert (rang, reference()) == (True, None)


def test_collections_are_counted_and_counting_goes_on_after_a_pause() -> None:
    heap = [[number] for number in range(100_000)]
    counted = [meter.gc]
    for _ in range(2):
        before = time.thread_time()
        watch_collections()
        gc.collect()
        ignore_collections()
        counted.append(meter.gc)
        assert 0 < counted[-1] - counted[-2] <= time.thread_time() - before
    gc.collect()
    assert (meter.gc, len(heap)) == (counted[-1], 100_000)


def test_an_encoder_that_is_interrupted_passes_it_on_and_is_measured_again(alarm: None) -> None:
    def encode(interrupted: bool) -> str:
        if interrupted:
            signal.raise_signal(signal.SIGALRM)
        end = time.thread_time_ns() + 1_000_000
        while time.thread_time_ns() < end:
            pass
        return "encoded"

    measured = timed(encode)
    with pytest.raises(Alarm) as caught:
        measured(interrupted=True)
    assert [entry.name for entry in caught.traceback][1:] == ["encode", "ring"]
    before = meter.serialization
    assert measured(interrupted=False) == "encoded"
    assert meter.serialization - before >= 0.001


def test_an_exception_of_a_signal_handler_is_told_from_one_of_ours(alarm: None) -> None:
    with pytest.raises(Alarm) as rang:
        signal.raise_signal(signal.SIGALRM)
    with pytest.raises(ZeroDivisionError) as ours:
        _ = 1 / 0
    assert (raised_by_a_signal(rang.value), raised_by_a_signal(ours.value)) == (True, False)


def test_a_handler_that_is_a_method_is_known_too() -> None:
    class Handlers:
        def ring(self, number: int, frame: Any) -> None:
            raise Alarm

    before = signal.signal(signal.SIGALRM, Handlers().ring)
    try:
        with pytest.raises(Alarm) as rang:
            signal.raise_signal(signal.SIGALRM)
        assert raised_by_a_signal(rang.value)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_soft_limit_that_hits_a_hook_ends_the_task_and_not_the_agent(worker: StartWorker, receiver: Receiver) -> None:
    hit = worker(
        TEST_BREAK=",".join(LIMITS), OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, OTEL_METRIC_EXPORT_INTERVAL="500"
    )
    for where in LIMITS:
        result = hit.app.AsyncResult(hit.send(where))
        limit = result.get(timeout=20, propagate=False)
        # After the result was stored the limit comes too late for the task, as it would without the agent.
        late = ("SUCCESS", "str")
        ended = late if where == "limit_in_end" else ("FAILURE", "SoftTimeLimitExceeded")
        assert (where, result.status, type(limit).__name__) == (where, *ended)
        for number in range(3):
            assert hit.app.AsyncResult(hit.send("add", number, 1)).get(timeout=20) == number + 1
    wait_for(lambda: receiver.total("celery.task.attempts") >= 15, 20, "all attempts")
    counted = {name: receiver.total("celery.task.attempts", taskwatt__task__name=f"tests.{name}") for name in LIMITS}
    assert counted == {"limit_in_begin": 0, "limit_in_end": 1, "limit_in_enter_body": 1, "limit_in_leave_body": 1}
    assert receiver.total("celery.task.attempts", taskwatt__task__name="tests.add") == 12
    assert hit.log.count("Task handler raised error: SoftTimeLimitExceeded()") == 2
    cancelled = receiver.total("celery.task.attempts", taskwatt__task__outcome="cancelled")
    assert (cancelled, hit.warnings) == (2, [])
