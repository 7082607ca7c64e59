"""Event loops: CPU, lag and stalls of every loop, and CPU per coroutine type.

What is hooked, and why that and not less:

- `_set_running_loop` of asyncio: every loop of the standard library's kind tells by it that it runs. That is all there
  is until the first loop does; every process that imports asyncio pays for this module alone.
- `Handle._run` (steps.py): the only place that sees all that a loop runs, and no coroutine or task factory is touched.
  The accelerator (accelerated.py) replaces it by one in C, and hooks the entries of CPython's own Task for uvloop.
- the `select` of a running loop's selector (selecting.py): the only place that sees it wait.
- `call_exception_handler` of loops and one function of `warnings` (losses.py): tasks that were lost.
- `create_task`, while a task factory is set (eager.py): eager tasks run their first step inside of it.
- `run_forever` and `call_soon` of uvloop (uvloop_loops.py): its handles are not Python's.
- items of thread pools (executors.py) and of anyio's worker threads (anyio_threads.py): where they are made and run.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from types import ModuleType
from typing import Any

from taskwatt import _imports

_originals: dict[ModuleType, Any] = {}
_NAME = "_set_running_loop"


def install() -> None:
    """Called when asyncio has been imported. Loops that already run are measured from now on."""
    if _originals:
        return
    for module in (events, asyncio):
        original = _originals[module] = getattr(module, _NAME)
        setattr(module, _NAME, _announcing(original))
    _imports.when_imported("uvloop", _on_uvloop)
    if events._get_running_loop() is not None or _other_threads():
        from taskwatt_asyncio import loops

        loops.attach()


def uninstall() -> None:
    """Leave asyncio and every loop as they were, also those that run."""
    import sys

    _imports.forget(_on_uvloop)
    for module, original in _originals.items():
        if getattr(getattr(module, _NAME), "__wrapped__", None) is original:
            setattr(module, _NAME, original)
    _originals.clear()
    for name in ("taskwatt_asyncio.uvloop_loops", "taskwatt_asyncio.loops"):
        used = sys.modules.get(name)
        if used is not None:
            used.uninstall()


def _announcing(original: Any) -> Any:
    def _set_running_loop(loop: Any) -> None:
        original(loop)
        if _originals:
            try:
                from taskwatt_asyncio import loops

                loops.changed(loop)
            except Exception as error:
                _give_up(error)

    _set_running_loop.__wrapped__ = original  # type: ignore[attr-defined]
    return _set_running_loop


def _give_up(error: Exception) -> None:
    import logging

    from taskwatt.interruption import raised_by_a_signal

    if raised_by_a_signal(error):
        raise error
    uninstall()
    logging.getLogger("taskwatt").warning("taskwatt stopped measuring event loops: %r", error, exc_info=error)


def _other_threads() -> bool:
    import threading

    return threading.active_count() > 1


def _on_uvloop(module: ModuleType) -> None:
    from taskwatt_asyncio import uvloop_loops

    uvloop_loops.install(module)
