"""The hooks on thread pools, put in and taken out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import thread as pools
from typing import Any

import anyio._backends._asyncio as backend
import pytest

import taskwatt_asyncio
from taskwatt import accounts
from taskwatt.runtime import runtime
from taskwatt_asyncio import anyio_threads, executors, types


def patchable() -> list[Any]:
    item: Any = vars(pools)["_WorkItem"]
    owners = (item, backend.WorkerThread, backend.AsyncIOBackend)
    names = ("__init__", "run", "_report_result", "run_sync_in_worker_thread")
    return [vars(owner).get(name) for owner in owners for name in names]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Thread pools are measured, in a process that nobody exports."""
    monkeypatch.setattr(runtime, "_refused", True)
    monkeypatch.setattr(executors, "thread_pools", executors.Pools())
    monkeypatch.setitem(executors.kinds, "ThreadPoolExecutor", executors.thread_pools)
    monkeypatch.setattr(anyio_threads, "_pools", anyio_threads._Pools())
    before = patchable()
    accounts.forget()
    executors.install()
    anyio_threads.install()
    yield
    anyio_threads.uninstall()
    executors.uninstall()
    assert patchable() == before
    accounts.forget()
    types.forget()


@pytest.fixture
def measured_loops(measured: None) -> Iterator[None]:
    """Event loops are measured too."""
    taskwatt_asyncio.install()
    yield
    taskwatt_asyncio.uninstall()
