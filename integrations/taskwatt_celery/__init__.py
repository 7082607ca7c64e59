"""Celery: CPU, outcome and span of every attempt, and what the worker's main process does for it.

Supported: Celery 5.4 and newer with the prefork and solo pools. Other pools run as without taskwatt, and say so once.

What is hooked, and why that and not less:

- `celery.app.trace` (attempt.py): the only place that sees decoding and the result's storing;
- kombu's encoders and the standard library's JSON (serialization.py): the only place that sees their CPU;
- publish signals (publish.py): headers, PRODUCER spans;
- worker signals (worker.py): when a process becomes a main process or a child;
- `os.waitpid` as billiard's process class sees it (worker.py): the CPU of a child that was killed is told to its parent
  only once.
"""

from __future__ import annotations

from types import ModuleType

from taskwatt import _imports

_state: list[object] = []


def install() -> None:
    """Called when celery has been imported. Imports nothing of the worker: that waits until the application does."""
    if _state:
        return
    from taskwatt_celery import serialization
    from taskwatt_celery.worker import Worker

    worker = Worker()
    _state.append(worker)
    worker.install()
    serialization.install()
    _imports.when_imported("celery.app.trace", _on_trace)
    _imports.when_imported("billiard.popen_fork", _on_popen)


def uninstall() -> None:
    """Leave Celery as it was."""
    from taskwatt_celery import carriers, serialization
    from taskwatt_celery.worker import Worker

    while _state:
        worker = _state.pop()
        assert isinstance(worker, Worker)
        _imports.forget(_on_trace)
        _imports.forget(_on_popen)
        worker.uninstall()
        serialization.uninstall()
    carriers.forget()


def _on_trace(module: ModuleType) -> None:
    from taskwatt_celery.worker import Worker

    for worker in _state:
        assert isinstance(worker, Worker)
        worker.hook.install(module)


def _on_popen(module: ModuleType) -> None:
    from taskwatt_celery.worker import Worker

    for worker in _state:
        assert isinstance(worker, Worker)
        worker.watch_reaping(module)
