"""Event loops while they run: found on their own, whichever way and in whichever thread they start.

A loop announces itself by `_set_running_loop`, which `__init__` watches (uvloop by `run_forever`, uvloop_loops.py).
From then on `running` holds what is going on in its thread. A loop that is run inside a step of another one (a
debugger's, nest_asyncio's) suspends that one until it has ended.
"""

from __future__ import annotations

import logging
import threading
from asyncio import AbstractEventLoop, Handle
from collections.abc import Callable
from typing import Any, TypeAlias

log = logging.getLogger("taskwatt")


class LoopThread:
    """One thread in which a loop runs. Written on that thread alone, read from any: plain attributes, no lock."""

    __slots__ = (
        "alive", "base_cpu", "base_wall", "busy_since", "detail", "due", "end", "handle", "ident", "inner", "kind",
        "loop", "name", "native_id", "plain", "settled_cpu", "since", "stamp_s", "stamped", "step_since", "steps",
    )  # fmt: skip

    def __init__(self, loop: AbstractEventLoop, kind: str = "asyncio") -> None:
        """On the thread of the loop."""
        thread = threading.current_thread()
        self.loop = loop
        self.kind = kind
        """asyncio or uvloop."""
        self.name = thread.name
        self.ident = threading.get_ident()
        self.native_id = threading.get_native_id()
        self.busy_since = 0.0
        """`perf_counter` when it last stopped waiting for events; 0.0 while it waits, and where that is not seen."""
        self.due = 0.0
        """`perf_counter` when a timer of ours should run; 0.0 where `busy_since` is seen (stock loops)."""
        self.step_since = 0.0
        """`perf_counter` when the running step began; 0.0 between steps."""
        self.handle: Handle | None = None
        """What is running; None between steps, and on uvloop."""
        self.steps = 0
        self.detail = False
        """Its CPU is that of a Celery attempt, which pays for it: coroutine types only say what for."""


OnLoop: TypeAlias = Callable[[LoopThread], None]
OnSlow: TypeAlias = Callable[[LoopThread, str, float, float, float], None]

running: dict[int, LoopThread] = {}
"""By `threading.get_ident()`: the innermost loop that runs in each thread."""

on_start: list[OnLoop] = []
"""Called on the loop's thread when it starts to run (or when it is found running). One that raises is taken out."""

on_end: list[OnLoop] = []
"""Called on the loop's thread when it has stopped running; on any thread when the agent is taken out meanwhile."""

on_slow: list[OnSlow] = []
"""`(thread, type name, start, duration_s, cpu_s)` on the loop's thread, after a step longer than `threshold_s`; its
start by `perf_counter`. The name is empty where something blocked that cannot be seen (uvloop's protocol callbacks)."""

threshold_s = 0.1
"""TASKWATT_STALL_THRESHOLD, read when the first loop starts."""


def tell(listeners: list[Any], *arguments: object) -> None:
    """Call every listener. One that raises is taken out, said once in the log, and never reaches the loop."""
    for listener in tuple(listeners):
        try:
            listener(*arguments)
        except Exception as error:
            if listener in listeners:
                listeners.remove(listener)
            log.warning("taskwatt stopped watching loops with %s: it failed: %r", listener, error, exc_info=error)
