"""asyncio with its hooks in, for tests with real loops."""

from __future__ import annotations

import asyncio
import selectors
import sys
import warnings
from asyncio import BaseEventLoop, Handle, events
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

import taskwatt_asyncio
from taskwatt import _imports
from taskwatt.observations import CoroutineTally, LoopTally
from taskwatt.runtime import runtime

T = TypeVar("T")


def hooks() -> dict[str, object]:
    """Everything that is patched while loops are measured; must be the same afterwards."""
    import uvloop

    loop = asyncio.new_event_loop()
    try:
        selector = dict(vars(loop._selector))  # type: ignore[attr-defined]
    finally:
        loop.close()
    return {
        "run": Handle._run,
        "entries": _hooked_entries(),
        "running": (events._set_running_loop, asyncio._set_running_loop),
        "loop": {name: value for name, value in vars(BaseEventLoop).items() if callable(value)},
        "uvloop": {name: value for name, value in vars(uvloop.Loop).items() if callable(value)},
        "selector": (sorted(selector), selectors.DefaultSelector.select),
        "warn": warnings._warn_unawaited_coroutine,  # type: ignore[attr-defined]
    }


def _hooked_entries() -> int:
    """Of tasks, by the accelerator."""
    c: Any = sys.modules.get("taskwatt_fast._carrier")
    return int(c.hooked()) if c is not None else 0


@contextmanager
def measured(folder: Path) -> Generator[None]:
    """Measure the loops of this process, as `taskwatt.instrument()` does."""
    before = hooks()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TASKWATT_DIR", str(folder / "taskwatt"))
        taskwatt_asyncio.install()
        try:
            yield
        finally:
            taskwatt_asyncio.uninstall()
            runtime.stop()
            _imports.uninstall()
    assert hooks() == before


def run(main: Coroutine[Any, Any, T], kind: str = "asyncio") -> T:
    """On a loop of asyncio or of uvloop."""
    factory = None
    if kind == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def coroutines() -> dict[str, CoroutineTally]:
    """By the last part of the name."""
    from taskwatt_asyncio.tallying import tallies

    return {name.rpartition(".")[2]: tally for name, tally in tallies().coroutines.items()}


def loops() -> dict[str, LoopTally]:
    from taskwatt_asyncio.tallying import tallies

    return dict(tallies().loops)
