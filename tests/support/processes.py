"""Servers and programs that a test starts, waits for and stops; each only by its own handle."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

REPOSITORY = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environ(**variables: str) -> dict[str, str]:
    """This process's environment without anything that switches tracing on, and `variables`.

    TASKWATT_ACCELERATOR stays: with 0 all tests are about pure Python.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == "TASKWATT_ACCELERATOR" or (not name.startswith(("TASKWATT_", "OTEL_")) and name != "PYTHONPATH")
    }
    return kept | variables


def wait_for(condition: Callable[[], object], seconds: float = 30.0, what: str = "the condition") -> None:
    """Poll until `condition()` is true; AssertionError naming `what` when it is not in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"{what} did not come true within {seconds:g} s")
        time.sleep(0.05)


def at_once(function: Callable[[T], R], items: Iterable[T], *, at_a_time: int = 4) -> list[R]:
    """`function` of every item, some at a time: most of what programs under test do is to wait."""
    with ThreadPoolExecutor(at_a_time) as threads:
        return list(threads.map(function, items))


def stop(process: subprocess.Popen[bytes], patience_s: float = 20.0) -> int:
    """SIGTERM, then SIGKILL for one that does not listen; its exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def heed_interrupts() -> None:
    """In this process and in those that it starts: what a script runs in the background ignores SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
