"""CPU by named activity in this process: counted once, on the calling thread, and invisible to the user."""

from __future__ import annotations

import functools
import gc
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from taskwatt.meter import ignore_collections, meter, watch_collections
from taskwatt.meter import timed as timed_in_python
from tests.support.carriers import carrier

__all__ = ["carrier"]

Timed = Callable[[Callable[..., Any]], Callable[..., Any]]


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@pytest.fixture
def spent() -> Callable[[], tuple[float, float]]:
    """(serialization, gc) since the test began."""
    serialization, collected = meter.serialization, meter.gc
    return lambda: (meter.serialization - serialization, meter.gc - collected)


@pytest.fixture
def timed(carrier: str) -> Timed:
    """What measures an encoder; by either carrier."""
    from taskwatt_celery import carriers

    carriers.forget()
    in_c = carriers.timed()
    carriers.forget()
    assert (in_c is None) == (carrier == "Python")
    return timed_in_python if in_c is None else lambda encode: functools.update_wrapper(in_c(encode), encode)


@pytest.fixture
def watching() -> Iterator[None]:
    watch_collections()
    watch_collections()
    yield
    ignore_collections()
    assert not any(getattr(one, "__module__", "") == "taskwatt.meter" for one in gc.callbacks)


def test_an_encoder_s_cpu_is_counted_and_its_sleep_is_not(
    timed: Timed, spent: Callable[[], tuple[float, float]]
) -> None:
    @timed
    def encode(value: int) -> int:
        """Encodes."""
        burn(0.02)
        time.sleep(0.1)
        return value

    assert (encode(7), encode.__name__, encode.__doc__) == (7, "encode", "Encodes.")
    assert 0.02 <= spent()[0] < 0.06


def test_an_encoder_within_an_encoder_counts_once(timed: Timed, spent: Callable[[], tuple[float, float]]) -> None:
    inner = timed(burn)
    timed(lambda: inner(0.02))()
    inner(0.02)
    assert 0.04 <= spent()[0] < 0.06


def test_an_encoder_that_raises_is_counted_and_its_traceback_shows_only_the_user(
    timed: Timed,
    spent: Callable[[], tuple[float, float]],
) -> None:
    @timed
    def decode() -> None:
        burn(0.01)
        raise ValueError("no JSON")

    try:
        decode()
    except ValueError as error:
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names == ["test_an_encoder_that_raises_is_counted_and_its_traceback_shows_only_the_user", "decode"]
    assert spent()[0] >= 0.01
    with pytest.raises(ValueError, match="no JSON"):
        decode()
    assert spent()[0] >= 0.02


def test_each_thread_counts_its_own(timed: Timed, spent: Callable[[], tuple[float, float]]) -> None:
    inside = threading.Event()

    @timed
    def encode() -> None:
        inside.set()
        burn(0.02)

    thread = threading.Thread(target=encode)
    thread.start()
    inside.wait()
    timed(burn)(0.02)
    thread.join()
    assert spent()[0] >= 0.04


def test_collections_are_counted_apart_from_the_encoder_they_interrupt(
    timed: Timed, watching: None, spent: Callable[[], tuple[float, float]]
) -> None:
    heap = [[number] for number in range(100_000)]

    @timed
    def encode() -> None:
        burn(0.01)
        gc.collect()

    before = spent()
    started = time.thread_time()
    encode()
    total = time.thread_time() - started
    serialization, collected = (new - old for new, old in zip(spent(), before, strict=True))
    assert collected > 0.0
    assert serialization >= 0.01
    assert serialization + collected <= total
    del heap
