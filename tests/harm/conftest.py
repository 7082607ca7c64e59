"""One Redis server for the folder; every worker gets a database and a folder of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.brokers import RedisServer
from tests.support.carriers import carrier, recorders
from tests.support.worker import Worker

__all__ = ["carrier", "recorders"]

APP = "tests.harm.app"

StartWorker = Callable[..., Worker]


@pytest.fixture(scope="module")
def module_workers(broker: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartWorker]:
    """As `worker`, for workers that the tests of one module share."""
    with ExitStack() as running:
        yield starter(broker, tmp_path_factory, running)


@pytest.fixture
def worker(broker: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartWorker]:
    """Start a worker with the harm application; it is stopped when the test ends."""
    with ExitStack() as running:
        yield starter(broker, tmp_path_factory, running)


def starter(broker: RedisServer, folders: pytest.TempPathFactory, running: ExitStack) -> StartWorker:
    def start(folder: Path | None = None, **options: Any) -> Worker:
        url = f"redis://127.0.0.1:{broker.port}/{next(_databases)}"
        given = {"app": APP, "TEST_BACKEND": url, **options}
        started = Worker(url, folder or folders.mktemp("worker"), **given)
        started.app.conf.update(result_backend=url, task_ignore_result=False)
        return running.enter_context(started)

    return start


_databases = itertools.cycle(range(16))
