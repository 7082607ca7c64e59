"""Spans of a user's provider carry the CPU that carriers billed while they were open; here the test is the carrier."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import Span, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from taskwatt import accounts
from taskwatt.export import span_cpu


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    before = Span.start, Span.end
    span_cpu.install()
    yield
    span_cpu.uninstall()
    accounts.forget()
    assert (Span.start, Span.end) == before


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(spans: InMemorySpanExporter) -> Iterator[trace.Tracer]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    yield provider.get_tracer("users.module")
    provider.shutdown()


def use(seconds: float) -> None:
    """As a carrier does at the end of a piece."""
    paying = accounts.account.get()
    assert paying is not None
    paying.bill(seconds)


def in_a_task(body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.create_task(body())  # type: ignore[arg-type]

    asyncio.run(main())


def cpu_of(spans: InMemorySpanExporter) -> dict[str, Any]:
    return {span.name: (span.attributes or {}).get("taskwatt.cpu.time") for span in spans.get_finished_spans()}


def test_a_span_has_what_ran_while_it_was_open_and_its_parent_has_both(
    tracer: trace.Tracer, spans: InMemorySpanExporter
) -> None:
    async def body() -> None:
        with tracer.start_as_current_span("request"):
            use(0.25)
            with tracer.start_as_current_span("query"):
                use(0.5)
            use(1.0)

    in_a_task(body)
    assert cpu_of(spans) == {"query": 0.5, "request": 1.75}
    assert (spans.get_finished_spans()[0].attributes or {})["taskwatt.cpu.time_bucket"] == "100ms-1s"


def test_child_tasks_are_included(tracer: trace.Tracer, spans: InMemorySpanExporter) -> None:
    async def child() -> None:
        use(0.5)
        with tracer.start_as_current_span("child"):
            use(0.25)

    async def body() -> None:
        with tracer.start_as_current_span("request"):
            await asyncio.gather(child(), child())

    in_a_task(body)
    assert cpu_of(spans) == {"child": 0.25, "request": 1.5}


def test_a_span_that_another_task_ends_has_what_both_used(tracer: trace.Tracer, spans: InMemorySpanExporter) -> None:
    async def ending(span: trace.Span) -> None:
        use(0.5)
        span.end()

    async def body() -> None:
        span = tracer.start_span("handed over")
        use(0.25)
        await asyncio.create_task(ending(span))
        with tracer.start_as_current_span("afterwards"):
            use(1.0)

    in_a_task(body)
    assert cpu_of(spans) == {"handed over": 0.75, "afterwards": 1.0}


def test_a_row_pays_for_what_its_spans_use(tracer: trace.Tracer, spans: InMemorySpanExporter) -> None:
    async def body() -> None:
        row = accounts.open_account("GET /items/{id}")
        with tracer.start_as_current_span("request"):
            use(0.5)
        row.close()

    in_a_task(body)
    row_of = accounts.rows()["GET /items/{id}", "useful"]
    assert (row_of.number, row_of.cpu_s) == (1, 0.5)
    assert cpu_of(spans) == {"request": 0.5}


def test_where_nobody_measures_there_is_no_figure(tracer: trace.Tracer, spans: InMemorySpanExporter) -> None:
    with tracer.start_as_current_span("plain"):
        assert accounts.account.get() is None

    async def body() -> None:
        with tracer.start_as_current_span("unmeasured"):
            pass

    in_a_task(body)
    assert cpu_of(spans) == {"plain": None, "unmeasured": None}


def test_spans_of_ours_are_left_alone(spans: InMemorySpanExporter) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))

    async def body() -> None:
        with provider.get_tracer("taskwatt").start_as_current_span("run/shop.pay"):
            assert accounts.account.get() is None

    in_a_task(body)
    provider.shutdown()


def test_what_the_user_set_is_neither_replaced_nor_pushed_out(spans: InMemorySpanExporter) -> None:
    provider = TracerProvider(span_limits=SpanLimits(max_span_attributes=3))
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracer = provider.get_tracer("users.module")

    async def body() -> None:
        with tracer.start_as_current_span("full", attributes={"a": 1, "b": 2}):
            use(0.5)
        with tracer.start_as_current_span("own", attributes={"taskwatt.cpu.time": 7.0}):
            use(0.5)

    in_a_task(body)
    full, own = spans.get_finished_spans()
    assert (dict(full.attributes or {}), dict(own.attributes or {})) == ({"a": 1, "b": 2}, {"taskwatt.cpu.time": 7.0})
    provider.shutdown()


def test_a_span_that_ends_twice_or_not_at_all_does_no_harm(
    tracer: trace.Tracer, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        tracer.start_span("never ended")
        span = tracer.start_span("twice")
        use(0.5)
        span.end()
        span.end()

    in_a_task(body)
    assert cpu_of(spans) == {"twice": 0.5}
    assert [record.getMessage() for record in caplog.records] == ["Calling end() on an ended span."]


def test_one_that_was_open_at_uninstall_ends_without_a_figure(
    tracer: trace.Tracer, spans: InMemorySpanExporter
) -> None:
    async def body() -> None:
        with tracer.start_as_current_span("request"):
            use(0.5)
            span_cpu.uninstall()

    in_a_task(body)
    assert cpu_of(spans) == {"request": None}


def test_a_hook_that_fails_is_off_and_says_so_once(
    tracer: trace.Tracer,
    spans: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> None:
        raise RuntimeError("a bug")

    async def body() -> None:
        monkeypatch.setattr(accounts, "open_account", broken)
        for number in range(3):
            with tracer.start_as_current_span(f"request {number}"):
                pass

    in_a_task(body)
    assert list(cpu_of(spans)) == ["request 0", "request 1", "request 2"]
    assert [(one.name, one.levelno) for one in caplog.records] == [("taskwatt", logging.WARNING)]
