"""A web process in front of a worker: one request through both, and a blocked event loop as people find it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self
from urllib.request import urlopen

import pytest

from tests.e2e.backends import JaegerSpan
from tests.e2e.conftest import Backends
from tests.e2e.documents import documented
from tests.support.processes import REPOSITORY, clean_environ, free_port, stop, wait_for
from tests.support.worker import Worker

FINDING = "taskwatt.finding loop_blocked"
DOWN = "redis://127.0.0.1:9"


class Web:
    """uvicorn with the application of tests.e2e.web. Use it as a context manager."""

    def __init__(self, backends: Backends, service: str, broker: str, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._environ = clean_environ(
            TASKWATT_ENABLED="1",
            TASKWATT_DIR=str(folder / "taskwatt"),
            TEST_BROKER=broker,
            OTEL_EXPORTER_OTLP_ENDPOINT=backends.collector.url,
            OTEL_METRIC_EXPORT_INTERVAL="1000",
            OTEL_SERVICE_NAME=service,
        )
        self._log = folder / "web.log"

    def __enter__(self) -> Self:
        port = self.url.rpartition(":")[2]
        command = [sys.executable, "-m", "uvicorn", "tests.e2e.web:app", "--port", port, "--log-level", "warning"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, env=self._environ, stdout=log, stderr=subprocess.STDOUT
            )
        wait_for(self._answers, 60, "the web process")
        return self

    def __exit__(self, *_: object) -> None:
        stop(self._process)

    def _answers(self) -> bool:
        try:
            return bool(self.get("/openapi.json"))
        except OSError:
            assert self._process.poll() is None, self._log.read_text()
            return False

    def get(self, path: str) -> bytes:
        with urlopen(self.url + path, timeout=20) as answer:
            found: bytes = answer.read()
            return found


@pytest.fixture
def start_web(backends: Backends, tmp_path: Path) -> Iterator[Callable[..., Web]]:
    with ExitStack() as running:

        def start(service: str, broker: str = DOWN) -> Web:
            folder = tmp_path / service
            folder.mkdir()
            return running.enter_context(Web(backends, service, broker, folder))

        yield start


def test_one_request_is_one_trace_with_cpu_on_each_part(
    backends: Backends, start_shop: Callable[..., Worker], start_web: Callable[..., Web]
) -> None:
    worker = start_shop(backends, "shipping", SHOP_PROVIDER="1")
    web = start_web("front", worker.broker)
    time.sleep(2)  # its agent starts a second late
    for order in range(50):  # one trace in ten is kept
        web.get(f"/orders/{order}")

    def whole() -> dict[str, JaegerSpan]:
        for trace in backends.jaeger.search("front", "GET /orders/{order_id}"):
            spans = {f"{one.service} {one.operation}": one for one in trace}
            if "shipping print label" in spans:
                return spans
        return {}

    wait_for(whole, 60, "a trace from the web process to the task of the worker's event loop")
    spans = whole()
    parts = [
        "front GET /orders/{order_id}",
        "front apply_async/tests.ship",
        "shipping run/tests.ship",
        "shipping print label",
    ]
    assert [one for one in parts if one not in spans] == []
    cpu = {part: float(spans[part].tags["taskwatt.cpu.time"]) for part in (parts[0], *parts[2:])}
    assert {
        part: cpu[part] / truth > 0.8 for part, truth in zip(cpu, (0.03, 0.06, 0.04), strict=True)
    } == dict.fromkeys(cpu, True), cpu
    assert {part: seconds < 0.2 for part, seconds in cpu.items()} == dict.fromkeys(cpu, True), cpu


def test_a_blocked_loop_is_found_in_jaeger_with_its_line_and_raises_the_alert(
    backends: Backends, start_web: Callable[..., Web]
) -> None:
    blocked, fine = start_web("blocked"), start_web("unblocked")
    seen: set[str] = set()

    def found() -> bool:
        with ThreadPoolExecutor(4) as clients:
            asked = [clients.submit(web.get, path) for web, path in ((blocked, "/report"), (fine, "/fine")) * 12]
            for one in asked:
                one.result()
        seen.update(backends.prometheus.firing("unblocked"))
        incidents = backends.jaeger.find("blocked", FINDING)
        stalls = backends.jaeger.find("blocked", "asyncio.stall")
        return bool(incidents and stalls and "AsyncioLoopLag" in backends.prometheus.firing("blocked"))

    wait_for(found, 90, "the incident, its stalls and the alert")
    jaeger, prometheus = backends.jaeger, backends.prometheus
    for command in documented(r"^(curl .*?)$", "jaeger.md", "web"):
        asked = command.replace("http://127.0.0.1:16686", jaeger.url).replace("=web", "=blocked")
        wait_for(lambda: json.loads(subprocess.check_output(shlex.split(asked)))["data"], 30, command)  # noqa: B023
    for query in documented(r"```promql\n(.*?)```", "prometheus.md", "web"):
        asked = query.replace('job="web"', 'job="blocked"').replace("[3m]", "[60s]")
        wait_for(lambda: prometheus.query(asked), 30, query)  # noqa: B023
    tags = backends.jaeger.find("blocked", FINDING)[-1].tags
    assert (tags["taskwatt.process.class"], tags["error"]) == ("web", True)
    assert tags["code.function.name"] == "report"
    assert tags["code.file.path"].endswith("tests/e2e/web.py")
    stall = backends.jaeger.find("blocked", "asyncio.stall")[-1]
    assert (stall.tags["taskwatt.stall.cause"], stall.tags["code.function.name"]) == ("blocking", "report")
    assert [one["taskwatt.task.name"] for one in (tags, stall.tags)] == ["GET /report"] * 2
    assert "AsyncioLoopLag" not in seen
    assert backends.jaeger.find("unblocked", FINDING) == []
