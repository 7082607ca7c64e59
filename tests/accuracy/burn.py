"""CPU that is used for a known time, and a record of it that does not depend on the agent."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import thread_time_ns

recorded: dict[str, float] = defaultdict(float)
"""CPU seconds by the name under which the agent ought to book them."""
_lock = threading.Lock()


def burn(seconds: float) -> None:
    """Use so much CPU of this thread, in pure Python; overshoots by some microseconds."""
    end = thread_time_ns() + int(seconds * 1e9)
    while thread_time_ns() < end:
        pass


@contextmanager
def record(name: str) -> Iterator[None]:
    """What this thread uses within is booked to `name`."""
    start = thread_time_ns()
    try:
        yield
    finally:
        used = (thread_time_ns() - start) / 1e9
        with _lock:
            recorded[name] += used


def repeat(name: str, call: Callable[[], object], seconds: float) -> None:
    """`call` again and again until this thread has used so much, recorded under `name`."""
    with record(name):
        end = thread_time_ns() + int(seconds * 1e9)
        while thread_time_ns() < end:
            call()
