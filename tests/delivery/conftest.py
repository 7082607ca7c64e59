"""One broker for the folder and one receiver a module, so that a module's tests can ask one worker many things."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.brokers import RedisServer
from tests.support.receiver import Receiver
from tests.support.worker import Worker

VENV_BIN = Path(sys.executable).parent
TRACED = "tests.support.traced"
_databases = itertools.cycle(range(1, 16))


def worker_url(broker: RedisServer) -> str:
    """A database of the broker for one worker alone."""
    return broker.url.removesuffix("/0") + f"/{next(_databases)}"


@pytest.fixture(scope="module")
def module_receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="module")
def start_traced(broker: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Worker]]:
    """Start a worker of the traced application, with the arguments of `Worker`; it is stopped with the module."""
    with ExitStack() as running:

        def start(**options: Any) -> Worker:
            folder = tmp_path_factory.mktemp("worker")
            return running.enter_context(Worker(worker_url(broker), folder, app=TRACED, **options))

        yield start
