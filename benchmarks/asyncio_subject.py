"""The process whose CPU is measured: `python -m benchmarks.asyncio_subject WORKLOAD LOOP`, under one variant.

It runs in our environment and in the peers' own, so it imports nothing of this project. BENCH_PEER names the peer to
start, as its documentation says to. What it prints first is the port to connect to, or `0`; the workload `steps` then
takes a number of steps from each line of its input and answers with a line when they are done.

- `steps`: 100 tasks that only yield, the least that a step can be. With one task alone an iteration of the loop, which
  no agent makes dearer, would be most of it.
- `echo`: lines over streams, as in the documentation of asyncio.
- `aiohttp`, `fastapi`: hello world. `small`: a server of about 200 us a request, over plain streams.
- `idle`: waits for an event that never comes. `tasks`: 100,000 tasks do.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

TASKS = 100
LIVE = 100_000
WORK = 44
"""Rounds of encoding and decoding in `small`; they make it about 200 us."""


def say(port: int) -> None:
    print(port, flush=True)


async def yielding(steps: int) -> None:
    for _ in range(steps):
        await asyncio.sleep(0)


async def steps(number: int) -> None:
    for task in [asyncio.create_task(yielding(number // TASKS)) for _ in range(TASKS)]:
        await task


def run_steps(runner: asyncio.Runner) -> None:
    """One loop for all batches: it stays warm, and stands still between them."""
    runner.run(steps(TASKS))
    say(0)
    for line in sys.stdin:
        runner.run(steps(int(line)))
        say(0)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
    writer.close()


DOCUMENT: dict[str, Any] = {"id": 7, "name": "item", "price": 1.5, "tags": ["a", "b", "c"]}


async def priced() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(WORK):
        found = json.loads(json.dumps(DOCUMENT))
    return found


async def small(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            body = json.dumps(await priced()).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
    writer.close()


async def serve_streams(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> None:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    say(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def serve_aiohttp() -> None:
    from aiohttp import web

    async def hello(_: web.Request) -> web.Response:
        return web.json_response({"hello": "world"})

    application = web.Application()
    application.router.add_get("/", hello)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    say(runner.addresses[0][1])
    await asyncio.Event().wait()


async def serve_fastapi() -> None:
    import uvicorn
    from fastapi import FastAPI

    application = FastAPI()

    @application.get("/")
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    class Server(uvicorn.Server):
        async def startup(self, *args: Any, **options: Any) -> None:
            await super().startup(*args, **options)
            say(self.servers[0].sockets[0].getsockname()[1])

    config = uvicorn.Config(application, port=0, log_level="warning", access_log=False, http="h11", lifespan="off")
    await Server(config).serve()


async def idle() -> None:
    say(0)
    await asyncio.Event().wait()


async def many_tasks() -> None:
    event = asyncio.Event()
    tasks = [asyncio.create_task(waiting(event)) for _ in range(LIVE)]
    await asyncio.sleep(0)
    say(0)
    await event.wait()
    del tasks


async def waiting(event: asyncio.Event) -> None:
    await event.wait()


WORKLOADS: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
    "echo": lambda: serve_streams(echo),
    "small": lambda: serve_streams(small),
    "aiohttp": serve_aiohttp,
    "fastapi": serve_fastapi,
    "idle": idle,
    "tasks": many_tasks,
}


def start_aiodebug() -> None:
    from aiodebug import log_slow_callbacks

    log_slow_callbacks.enable(0.1)


def start_aiocop() -> None:
    import aiocop

    aiocop.patch_audit_functions()
    aiocop.start_blocking_io_detection()
    aiocop.detect_slow_tasks(threshold_ms=100, on_slow_task=lambda _: None)
    aiocop.activate()


def start_ddtrace() -> None:
    from ddtrace.profiling import Profiler

    Profiler().start()


def start_opentelemetry() -> None:
    from opentelemetry import metrics, trace
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.asyncio import AsyncioInstrumentor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())]))
    instrumentor: Any = AsyncioInstrumentor
    instrumentor().instrument()


def start_yappi() -> None:
    import yappi

    yappi.set_clock_type("cpu")
    yappi.start()


def import_sdk() -> None:
    """What the agent imports of OpenTelemetry to export; memory is counted beyond it."""
    import opentelemetry.exporter.otlp.proto.http.metric_exporter
    import opentelemetry.exporter.otlp.proto.http.trace_exporter
    import opentelemetry.sdk.metrics.export
    import opentelemetry.sdk.trace.export  # noqa: F401  # what is loaded is what is measured


PEERS: dict[str, Callable[[], None]] = {
    "aiodebug": start_aiodebug,
    "aiocop": start_aiocop,
    "ddtrace": start_ddtrace,
    "opentelemetry-asyncio": start_opentelemetry,
    "yappi": start_yappi,
    "sdk": import_sdk,
}


async def start(peer: str) -> None:
    """Within the running loop, as some of them need it."""
    if peer:
        PEERS[peer]()


def main() -> None:
    workload, loop = sys.argv[1:]
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(start(os.environ.get("BENCH_PEER", "")))
        if workload == "steps":
            run_steps(runner)
        else:
            runner.run(WORKLOADS[workload]())


if __name__ == "__main__":
    main()
