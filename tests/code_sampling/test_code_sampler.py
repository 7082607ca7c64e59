"""The sampler on real threads with known work."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from taskwatt.code_sampler import MAX_SITES, CodeSampler, Samples, Seen, hottest
from taskwatt.code_site import Line
from taskwatt.observations import CodeSite

pytestmark = pytest.mark.alone


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    interval, threads = sys.getswitchinterval(), set(threading.enumerate())
    yield
    assert sys.getswitchinterval() == pytest.approx(interval)
    assert set(threading.enumerate()) == threads


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def hot(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(100))


def wait(seconds: float) -> None:
    time.sleep(seconds)


def sampled(body: Callable[[], None]) -> Samples:
    sampler = CodeSampler()
    sampler.start(threading.get_ident())
    try:
        body()
    finally:
        samples = sampler.stop()
    return samples


def by_function(samples: Samples) -> dict[str, float]:
    shares: dict[str, float] = {}
    for seen in samples.seen:
        shares[seen.line.function] = shares.get(seen.line.function, 0.0) + seen.cpu_s / samples.cpu_s
    return shares


def test_a_burner_is_named_with_function_file_and_line() -> None:
    site = hottest(sampled(lambda: hot(0.5)), "burner")
    assert site is not None
    first = hot.__code__.co_firstlineno
    assert (site.task, site.function, site.file) == ("burner", "hot", __file__)
    assert first < site.line <= first + 3


def test_the_hotter_of_two_functions_wins() -> None:
    def work() -> None:
        for _ in range(10):
            hot(0.04)
            burn(0.01)

    samples = sampled(work)
    shares = by_function(samples)
    assert shares["hot"] > 0.5 > shares.get("burn", 0.0)


def test_a_waiting_line_gets_nothing() -> None:
    assert sampled(lambda: wait(0.2)) == Samples(agent_cpu_s=cast(float, pytest.approx(0.0, abs=0.2)))


def test_a_line_that_waits_between_bursts_gets_next_to_nothing() -> None:
    def work() -> None:
        for _ in range(40):
            hot(0.01)
            wait(0.01)

    samples = sampled(work)
    shares = by_function(samples)
    assert shares["hot"] > 0.7
    assert shares.get("wait", 0.0) < 0.2


def test_attempts_shorter_than_the_interval_add_up() -> None:
    total = Samples()
    for _ in range(150):
        total += sampled(lambda: hot(0.004))
    site = hottest(total, "short")
    assert site is not None
    assert site.function == "hot"


def test_too_few_samples_name_no_line() -> None:
    assert hottest(Samples((Seen(Line("f", "/a.py", 1), 1.0, 4),), 1.0, 4)) is None
    assert hottest(Samples()) is None


def test_the_hottest_line_is_looked_for_in_the_hottest_function() -> None:
    lines = (
        Seen(Line("once", "/a.py", 1), 0.40, 40),
        Seen(Line("loop", "/a.py", 8), 0.35, 35),
        Seen(Line("loop", "/a.py", 9), 0.25, 25),
    )
    assert hottest(Samples(lines, 1.0, 100), "t") == CodeSite("t", "loop", "/a.py", 8, 0.35, 100)


def test_the_lines_kept_are_bounded_and_their_sum_is_not() -> None:
    total = Samples()
    for number in range(1000):
        total += Samples((Seen(Line("f", "/a.py", number), 0.001, 1),), 0.001, 1)
    assert len(total.seen) == MAX_SITES
    assert (total.samples, total.cpu_s) == (1000, cast(float, pytest.approx(1.0)))


def test_the_sampled_thread_may_end() -> None:
    sampler, burnt, leave = CodeSampler(), threading.Event(), threading.Event()

    def work() -> None:
        hot(0.1)
        burnt.set()
        leave.wait()

    thread = threading.Thread(target=work)
    thread.start()
    assert thread.ident is not None
    sampler.start(thread.ident, 0.001)
    burnt.wait()
    leave.set()
    thread.join()
    samples = sampler.stop()
    assert by_function(samples)["hot"] > 0.5


def test_a_thread_that_does_not_exist_is_not_sampled() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    sampler = CodeSampler()
    sampler.start(thread.ident or 0)
    assert not sampler.running
    assert sampler.stop() == Samples()


def test_it_ends_by_itself() -> None:
    sampler = CodeSampler(max_s=0.05)
    sampler.start(threading.get_ident())
    hot(0.3)
    assert not sampler.running
    assert sampler.stop().samples > 0


def test_stop_without_start_and_twice_is_harmless() -> None:
    assert CodeSampler().stop() == Samples()
    sampler = CodeSampler()
    sampler.start(threading.get_ident())
    hot(0.1)
    assert sampler.stop() == sampler.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_ends_the_sampling_and_keeps_what_was_seen() -> None:
    sampler = CodeSampler()
    sampler.start(threading.get_ident())
    hot(0.2)
    child = os.fork()  # Python 3.12+ warns here, which is an error in tests, while another thread lives
    if child == 0:
        os._exit(0 if sampler.stop() == Samples() and threading.active_count() == 1 else 1)
    _, status = os.waitpid(child, 0)
    running = sampler.running
    samples = sampler.stop()
    assert (os.waitstatus_to_exitcode(status), running) == (0, False)
    assert by_function(samples)["hot"] > 0.5


def test_no_frame_is_kept_alive() -> None:
    class Big:
        pass

    def task() -> weakref.ref[Big]:
        big = Big()
        hot(0.1)
        return weakref.ref(big)

    gc.disable()
    try:
        sampler = CodeSampler()
        sampler.start(threading.get_ident(), 0.001)
        kept = task()
        sampler.stop()
        assert kept() is None
    finally:
        gc.enable()
