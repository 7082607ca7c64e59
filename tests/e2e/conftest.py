"""The three backends, wired up as the docs say: taskwatt -> collector -> Jaeger and Prometheus."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.backends import Collector, Jaeger, Prometheus
from tests.e2e.programs import go
from tests.e2e.storm import Storm
from tests.support.brokers import RedisServer
from tests.support.worker import Worker

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.e2e)


_stated: list[str] = []


@pytest.fixture(scope="session")
def state() -> Callable[[str], None]:
    """Say what was reached: it stands below the results, whatever they are."""
    return _stated.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _stated:
        terminalreporter.write_line(line)


@dataclass(frozen=True)
class Backends:
    collector: Collector
    jaeger: Jaeger
    prometheus: Prometheus


@contextmanager
def all_running(folder: Path, *, keep_all: bool = False) -> Iterator[Backends]:
    """All three; `keep_all`: the collector keeps every trace."""
    prometheus = Prometheus(folder)
    jaeger = Jaeger(folder, prometheus.url)
    collector = Collector(folder, jaeger.otlp, prometheus.otlp, keep_all=keep_all)
    with prometheus, jaeger, collector:
        yield Backends(collector, jaeger, prometheus)


@pytest.fixture(scope="session", autouse=True)
def _go() -> None:
    if go() is None:
        reason = "Go is not installed: the real collector, Jaeger and Prometheus cannot be built"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(scope="session")
def backends(tmp_path_factory: pytest.TempPathFactory, _go: None) -> Iterator[Backends]:
    with all_running(tmp_path_factory.mktemp("backends")) as found:
        yield found


@pytest.fixture(scope="session")
def storm(backends: Backends, start_shop: Callable[..., Worker]) -> Storm:
    return Storm.begin(backends, start_shop)


@pytest.fixture(scope="session")
def start_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Worker]]:
    """Start `start_shop(backends, service, **options of Worker)`: a worker with a broker of its own.

    `beside`: a worker whose broker it shares.
    """
    running: list[Worker] = []
    with ExitStack() as stack:

        def own_broker(folder: Path) -> str:
            redis = RedisServer(folder)
            redis.start()
            stack.callback(redis.stop)
            stack.callback(redis.client.close)
            return redis.url

        def start(backends: Backends, service: str, beside: Worker | None = None, **options: Any) -> Worker:
            folder = tmp_path_factory.mktemp(service)
            broker = beside.broker if beside else own_broker(folder)
            environ = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": backends.collector.url,
                "OTEL_METRIC_EXPORT_INTERVAL": "1000",
                "OTEL_SERVICE_NAME": service,
            }
            worker = Worker(broker, folder, app="tests.e2e.shop", **{**environ, **options})
            running.append(stack.enter_context(worker))
            return worker

        yield start
        for worker in running:  # together: each takes its seconds to end
            worker.process.terminate()
