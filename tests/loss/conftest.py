"""A worker whose tasks keep a book of their own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.loss.books import Told, Truth
from tests.support.receiver import Receiver
from tests.support.worker import Worker


class StartWorker(Protocol):
    def __call__(self, *options: str, **environ: str) -> Worker: ...


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    return Truth(tmp_path / "truth.txt")


@pytest.fixture
def told(receiver: Receiver) -> Told:
    return Told(receiver)


@pytest.fixture
def start(start_worker: Callable[..., Worker], receiver: Receiver, truth: Truth) -> Iterator[StartWorker]:
    """Start a worker with these command line options (two children by default), exporting to the receiver."""
    started: list[Worker] = []

    def start(*options: str, **environ: str) -> Worker:
        given: dict[str, Any] = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
            "TEST_TRUTH": str(truth.path),
            **environ,
        }
        worker = start_worker(app="tests.loss.app", options=options or ("--concurrency", "2"), **given)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        if worker.alive:
            worker.end(signal.SIGKILL)  # its children get the same; a warm shutdown would take seconds
