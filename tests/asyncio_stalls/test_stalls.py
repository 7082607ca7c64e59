"""What is told of a stall, how often, and what the watching leaves behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from taskwatt.accounts import open_account
from taskwatt.observations import InterpreterTally
from taskwatt.runtime import runtime
from taskwatt_asyncio.interpreter import InterpreterWatch
from taskwatt_asyncio.stalls import AT_ONCE, EVERY_S, Bound, stalls, watchdog
from tests.asyncio_stalls.conftest import Told
from tests.support.loops import run
from tests.support.processes import wait_for

pytestmark = pytest.mark.alone


@pytest.fixture
def tracer() -> Iterator[trace.Tracer]:
    provider = TracerProvider()
    yield provider.get_tracer("users.module")
    provider.shutdown()


def watching() -> int:
    return sum(one.name == "taskwatt-watch" for one in threading.enumerate())


async def block(seconds: float = 0.12) -> None:
    time.sleep(seconds)  # noqa: ASYNC251


def ids(span: trace.Span) -> tuple[bytes, bytes]:
    context = span.get_span_context()
    return context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")


def test_a_stall_is_told_with_all_that_is_known_of_it(told: Told, tracer: trace.Tracer) -> None:
    spans: list[trace.Span] = []

    async def main() -> None:
        with tracer.start_as_current_span("request") as span:
            spans.append(span)
            await asyncio.create_task(block(0.2))

    before_ns = time.time_ns()
    asyncio.run(main())
    (stall,) = told()
    assert (stall.loop, stall.task, stall.process_class) == ("MainThread", f"{__name__}.block", "job")
    assert (stall.cause, stall.code is not None) == ("blocking", True)
    assert before_ns <= stall.start_ns <= time.time_ns() - int(stall.duration_s * 1e9) + 1_000_000
    assert stall.duration_s >= 0.2
    assert 0.0 <= stall.cpu_s < 0.1
    assert (stall.link_trace_id, stall.link_span_id) == ids(spans[0])
    assert stall.stack.splitlines()[-1] == (f'File "{__file__}", line {block.__code__.co_firstlineno + 1}, in block')


def test_the_span_is_the_one_that_was_active_while_it_blocked(told: Told, tracer: trace.Tracer) -> None:
    spans: list[trace.Span] = []

    async def main() -> None:
        with tracer.start_as_current_span("request"), tracer.start_as_current_span("query") as span:
            spans.append(span)
            time.sleep(0.15)  # noqa: ASYNC251

    asyncio.run(main())
    (stall,) = told()
    assert (stall.link_trace_id, stall.link_span_id) == ids(spans[0])


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_the_row_is_the_one_that_paid_while_it_blocked(told: Told, carrier: str, kind: str) -> None:
    async def request(route: str) -> None:
        row = open_account("GET (no route)")
        row.rename(f"GET {route}")
        await asyncio.sleep(0.01)
        time.sleep(0.15)  # noqa: ASYNC251
        row.close()

    async def main() -> None:
        await asyncio.create_task(request("/report/{id}"))
        await asyncio.create_task(request("/orders"))
        await asyncio.create_task(block(0.15))

    run(main(), kind)
    found = [(one.name, one.task.rpartition(".")[2]) for one in told()]
    assert found == [("GET /report/{id}", "request"), ("GET /orders", "request"), (f"{__name__}.block", "block")]


def test_one_route_that_blocks_does_not_silence_another(told: Told) -> None:
    async def request(route: str) -> None:
        row = open_account(route)
        time.sleep(0.11)  # noqa: ASYNC251
        row.close()

    async def main() -> None:
        for route in ["GET /often"] * 2 * AT_ONCE + ["GET /once"]:
            await asyncio.create_task(request(route))

    asyncio.run(main())
    assert [one.row for one in told()][-1] == "GET /once"


def test_steps_below_the_threshold_are_not_told(told: Told) -> None:
    async def main() -> None:
        for _ in range(5):
            await asyncio.create_task(block(0.06))

    asyncio.run(main())
    assert [one.duration_s for one in told() if one.duration_s < 0.1] == []


def test_a_loop_that_always_blocks_floods_nothing(told: Told) -> None:
    async def main() -> None:
        for _ in range(3 * AT_ONCE):
            await asyncio.create_task(block(0.11))

    asyncio.run(main())
    assert AT_ONCE <= len(told()) < 2 * AT_ONCE


def test_a_bound_gives_some_at_once_and_then_one_in_a_while() -> None:
    bound = Bound(AT_ONCE, EVERY_S)
    given: list[float] = []
    for tenth in range(1000, 1200):
        if bound.refill(tenth / 10):
            bound.take()
            given.append(tenth / 10)
    assert given == pytest.approx([100.0, 100.1, 100.2, *(102.0 + EVERY_S * n for n in range(9))], abs=0.11)


def test_the_thread_lives_while_a_loop_runs_and_not_for_long_after(told: Told) -> None:
    seen: list[int] = []

    async def main() -> None:
        seen.append(watching())

    assert watching() == 0
    for _ in range(20):
        asyncio.run(main())
    assert seen == [1] * 20
    wait_for(lambda: not watching(), what="the end of the watchdog")
    asyncio.run(main())
    assert seen[-1] == 1


def test_descriptors_are_given_back_when_loops_end(told: Told) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        await asyncio.sleep(0.2)

    asyncio.run(main())
    wait_for(lambda: not watching(), what="the end of the watchdog")
    before = descriptors()
    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(lambda: not watching(), what="the end of the watchdog")
    assert descriptors() <= before


def test_a_watchdog_that_takes_over_keeps_no_descriptor_of_the_one_before() -> None:
    before = os.listdir("/proc/self/fd")
    watch = InterpreterWatch()
    watch.open()
    watch.open()
    watch.close()
    assert os.listdir("/proc/self/fd") == before


def test_a_pool_child_has_no_thread_and_tells_without_a_line(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    from taskwatt.segments import layout

    assert runtime.segment is not None
    monkeypatch.setattr(runtime.segment, "role", layout.CHILD)

    async def main() -> None:
        assert "taskwatt-watch" not in {one.name for one in threading.enumerate()}
        await asyncio.create_task(block(0.2))

    asyncio.run(main())
    (stall,) = told()
    assert (stall.cause, stall.code, stall.stack) == ("blocking", None, "")
    assert stalls._before == {}


def test_the_interpreter_is_probed_and_its_hottest_thread_named(told: Told) -> None:
    tallies: list[InterpreterTally] = []
    done = threading.Event()

    def hog() -> None:
        while not done.is_set():
            sum(range(100))

    async def main() -> None:
        tallies.append(watchdog.interpreter.tally())
        await asyncio.sleep(0.5)
        tallies.append(watchdog.interpreter.tally())
        await asyncio.sleep(0.5)
        tallies.append(watchdog.interpreter.tally())

    thread = threading.Thread(target=hog, name="the hog")
    thread.start()
    asyncio.run(main())
    done.set()
    thread.join()
    first, _, last = tallies
    assert last.hottest == "the hog"
    assert last.probes - first.probes >= 5
    assert last.late_s - first.late_s > 0.0
    assert 0.5 < last.watched_s - first.watched_s < 5.0
    assert 0.0 < last.threads_cpu_s - first.threads_cpu_s <= 2.0 * (last.watched_s - first.watched_s)


def test_a_process_forked_from_a_loop_goes_on_and_is_watched_itself(tmp_path: Path) -> None:
    script = """
    import asyncio, os, sys, threading, time
    import taskwatt
    taskwatt.instrument()

    async def inner():
        time.sleep(0.15)
        print("watched" if "taskwatt-watch" in {one.name for one in threading.enumerate()} else "alone", flush=True)

    async def main():
        await asyncio.sleep(0.2)
        child = os.fork()
        if child == 0:
            asyncio._set_running_loop(None)
            asyncio.run(inner())
            sys.stdout.flush()
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    asyncio.run(main())
    """
    environment = {**os.environ, "TASKWATT_DIR": str(tmp_path), "TASKWATT_ENABLED": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout.split(), done.stderr) == (["watched", "7"], "")
