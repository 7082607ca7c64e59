"""Puts the agent into a process and takes it out again, and names what is not as it was before."""

from __future__ import annotations

import asyncio
import asyncio.base_events
import asyncio.futures
import asyncio.locks
import asyncio.queues
import asyncio.runners
import asyncio.selector_events
import asyncio.streams
import asyncio.tasks
import asyncio.unix_events
import concurrent.futures.thread
import faulthandler
import gc
import selectors
import signal
import sys
import threading
import warnings
from asyncio import events
from collections.abc import Coroutine, Mapping
from types import ModuleType
from typing import Any

import anyio._backends._asyncio
import anyio.to_thread
import uvloop
import uvloop.loop

import taskwatt

MODULES: tuple[ModuleType, ...] = (
    asyncio,
    asyncio.base_events,
    events,
    asyncio.futures,
    asyncio.locks,
    asyncio.queues,
    asyncio.runners,
    asyncio.selector_events,
    asyncio.streams,
    asyncio.tasks,
    asyncio.unix_events,
    anyio.to_thread,
    anyio._backends._asyncio,
    concurrent.futures.thread,
    selectors,
    threading,
    uvloop,
    uvloop.loop,
    warnings,
)
MOMENTS = ("between loops", "while one runs", "while one runs in a thread")


def state() -> dict[str, Any]:
    """The identity of every function, class and attribute of a class; what a process has of hooks and handlers."""
    found: dict[str, Any] = {}
    for module in MODULES:
        for name, value in vars(module).items():
            if name.startswith("__") or isinstance(value, (dict, set, list, int)):
                continue
            found[f"{module.__name__}.{name}"] = id(value)
            if isinstance(value, type):
                found |= {f"{module.__name__}.{name}.{key}": id(one) for key, one in vars(value).items()}
    found["hooks"] = [sys.excepthook, sys.unraisablehook, threading.excepthook, sys.gettrace(), sys.getprofile()]
    found["callbacks"] = [list(gc.callbacks), list(sys.meta_path), sys.getswitchinterval(), faulthandler.is_enabled()]
    found["handlers"] = [signal.getsignal(number) for number in signal.valid_signals()]
    found["threads"] = [thread.name for thread in threading.enumerate() if thread.name.startswith("taskwatt")]
    return found


def instrument() -> dict[str, Any]:
    before = state()
    taskwatt.instrument()
    assert different(before), "nothing was hooked"
    return before


def different(before: Mapping[str, Any]) -> list[str]:
    now = state()
    return [key for key in before if before[key] != now.get(key)]


def own(loop: asyncio.AbstractEventLoop) -> dict[str, int]:
    """What hangs on one loop, but for its counters and its executor."""
    attributes: dict[str, Any] = getattr(loop, "__dict__", {})
    left_out = (int, float, type(None))
    return {
        key: id(value)
        for key, value in attributes.items()
        if key != "_default_executor" and not isinstance(value, left_out)
    }


async def work() -> None:
    await asyncio.gather(*[asyncio.sleep(0.001) for _ in range(20)])
    assert await asyncio.to_thread(sum, range(10)) == 45


async def around() -> list[str]:
    loop = asyncio.get_running_loop()
    await work()
    mine, before = own(loop), instrument()
    await work()
    pending = asyncio.create_task(asyncio.sleep(0.05, "pending"))
    await asyncio.sleep(0)
    taskwatt.uninstrument()
    found = different(before)
    assert await pending == "pending"
    await work()
    now = own(loop)
    return found + [key for key in mine if mine[key] != now.get(key)]


def run(kind: str, moment: str) -> list[str]:
    """Names of what is not as it was."""

    def on_a_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
        factory = uvloop.new_event_loop if kind == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(coroutine)

    on_a_loop(work())
    found: list[str] = []
    if moment == "between loops":
        before = instrument()
        on_a_loop(work())
        taskwatt.uninstrument()
        found = different(before)
    elif moment == "while one runs":
        found = on_a_loop(around())
    else:
        thread = threading.Thread(target=lambda: found.extend(on_a_loop(around())), name="another")
        thread.start()
        thread.join()
    on_a_loop(work())
    return found
