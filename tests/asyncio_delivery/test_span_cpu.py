"""CPU per request in the user's own trace: FastAPI as OpenTelemetry instruments it, measured by the real hooks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import taskwatt_asyncio
from taskwatt import accounts
from taskwatt.export import span_cpu
from taskwatt.runtime import runtime

BURN_S = 0.06


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@pytest.fixture
def spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    monkeypatch.setenv("TASKWATT_DIR", str(tmp_path))
    runtime.become_owner("web")
    taskwatt_asyncio.install()
    span_cpu.install()
    yield InMemorySpanExporter()
    span_cpu.uninstall()
    taskwatt_asyncio.uninstall()
    runtime.stop()
    accounts.forget()


def application(tracer: trace.Tracer) -> FastAPI:
    app = FastAPI()

    async def child() -> None:
        burn(BURN_S)

    @app.get("/alone")
    async def alone() -> None:
        burn(BURN_S)

    @app.get("/nested")
    async def nested() -> None:
        burn(BURN_S)
        with tracer.start_as_current_span("work"):
            await asyncio.gather(child(), child())

    @app.get("/in_a_thread")
    def in_a_thread() -> None:
        burn(BURN_S)

    return app


async def get(app: FastAPI, path: str) -> None:
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": [],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Any) -> None:
        await asyncio.sleep(0)

    await app(scope, receive, send)


def test_every_request_carries_its_own_cpu_although_they_run_at_once(spans: InMemorySpanExporter) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    app = application(provider.get_tracer("users.module"))
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)

    async def main() -> None:
        await get(app, "/alone")  # what only the first request pays for
        spans.clear()
        await asyncio.gather(*(asyncio.create_task(get(app, path)) for path in ("/alone", "/nested", "/in_a_thread")))

    asyncio.run(main())
    provider.shutdown()
    used = {span.name: (span.attributes or {}).get("taskwatt.cpu.time", 0.0) for span in spans.get_finished_spans()}
    expected = {"GET /alone": BURN_S, "GET /nested": 3 * BURN_S, "work": 2 * BURN_S, "GET /in_a_thread": BURN_S}
    measured = {name: seconds for name, seconds in used.items() if name in expected}
    assert measured == pytest.approx(expected, rel=0.03, abs=0.006)
