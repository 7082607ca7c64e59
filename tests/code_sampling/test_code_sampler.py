"""The sampler on real threads with known work."""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from typing import Any, cast

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


DOCUMENT = [{"id": number, "name": f"item {number}", "tags": ["a", "b"], "price": 1.37} for number in range(20_000)]
CATASTROPHIC = re.compile(r"^(\w+\s?)*$")
POWER = 3**60_000


def matched(length: int) -> None:
    CATASTROPHIC.match("a" * length + "!")


def written(document: object) -> str:
    return json.dumps(document)


def parsed(text: str) -> object:
    return json.loads(text)


def multiplied() -> int:
    return POWER**3  # no call: the interpreter is handed over by what comes next


class Timed:
    """CPU seconds of functions as they measure it themselves: the truth."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}

    def __call__(self, function: Callable[..., Any], *arguments: object) -> Any:
        begun = time.thread_time()
        try:
            return function(*arguments)
        finally:
            used = time.thread_time() - begun
            self.cpu_s[function.__name__] = self.cpu_s.get(function.__name__, 0.0) + used

    def shares_of(self, samples: Samples) -> dict[str, float]:
        """Of what is timed: to free what a call has returned is the caller's."""
        seen = by_function(samples)
        total = sum(seen.get(name, 0.0) for name in self.cpu_s)
        return {name: seen.get(name, 0.0) / total for name in self.cpu_s}

    def shares(self) -> dict[str, float]:
        return {name: cpu_s / sum(self.cpu_s.values()) for name, cpu_s in self.cpu_s.items()}


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


def test_a_call_in_c_that_keeps_the_interpreter_is_named() -> None:
    def attempt() -> None:
        matched(18)

    site = hottest(sum((sampled(attempt) for _ in range(5)), Samples()), "regex")
    line = matched.__code__.co_firstlineno + 1
    assert site is not None
    assert (site.function, site.file, site.line) == ("matched", __file__, line)
    assert site.weight > 0.9


def test_one_long_call_in_c_is_enough() -> None:
    begun = time.thread_time()
    samples = sampled(lambda: matched(21))
    used = time.thread_time() - begun
    assert [seen.line.function for seen in samples.seen[:1]] == ["matched"]
    assert samples.seen[0].cpu_s == pytest.approx(used, rel=0.1)


def test_calls_in_c_and_python_get_the_shares_that_they_use() -> None:
    timed, total = Timed(), Samples()

    def attempt() -> None:
        text = timed(written, DOCUMENT)
        timed(parsed, text)
        timed(hot, 0.03)

    for _ in range(20):
        total += sampled(attempt)
    assert timed.shares_of(total) == pytest.approx(timed.shares(), abs=0.1)


def test_short_attempts_with_a_call_in_c_get_the_shares_that_they_use() -> None:
    timed, total = Timed(), Samples()

    def attempt() -> None:
        timed(hot, 0.001)
        timed(written, DOCUMENT[:800])
        timed(burn, 0.001)

    for _ in range(900):
        total += sampled(attempt)
    assert timed.shares_of(total) == pytest.approx(timed.shares(), abs=0.1)


def test_waiting_after_a_call_in_c_gets_nothing() -> None:
    def work() -> None:
        for _ in range(30):
            written(DOCUMENT[:3000])
            wait(0.01)

    shares = by_function(sampled(work))
    assert shares["written"] > 0.8
    assert shares.get("wait", 0.0) < 0.05


def test_waiting_after_what_keeps_the_interpreter_and_is_no_call_gets_nothing() -> None:
    def work() -> None:
        for _ in range(30):
            multiplied()
            wait(0.01)

    shares = by_function(sampled(work)) or {"wait": 0.0}
    assert shares.get("wait", 0.0) < 0.1


def test_a_call_that_computes_without_the_interpreter_is_named() -> None:
    text = b"abcdefgh" * 20_000

    def pressed() -> None:
        zlib.compress(text, 9)

    def work() -> None:
        for _ in range(100):
            pressed()

    assert by_function(sampled(work))[pressed.__qualname__] > 0.7


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
