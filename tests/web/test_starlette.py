"""FastAPI and Starlette behind real servers: each request is a row of the template that its route has."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import Message, Receive, Scope, Send

import taskwatt
from taskwatt import _integrations, accounts
from taskwatt.runtime import runtime
from taskwatt_web import starlette_routes
from tests.support.server import GUNICORN, HYPERCORN, UVICORN, Server

APP = "tests.support.apps.fastapi_app:app"
SERVERS = {
    "uvicorn on asyncio": (*UVICORN, "--loop", "asyncio", APP),
    "uvicorn on uvloop": (*UVICORN, "--loop", "uvloop", APP),
    "hypercorn": (*HYPERCORN, APP),
    "gunicorn with a uvicorn worker": (*GUNICORN, "-k", "uvicorn.workers.UvicornWorker", APP),
}


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Starlette is hooked in this process, which nobody exports."""
    monkeypatch.setattr(runtime, "_refused", True)
    accounts.forget()
    starlette_routes.install()
    yield
    starlette_routes.uninstall()
    accounts.forget()


@pytest.mark.parametrize("command", SERVERS.values(), ids=SERVERS.keys())
def test_requests_are_told_apart_by_route_and_outcome(serve: Callable[..., Server], command: tuple[str, ...]) -> None:
    server = serve(command)
    paths = [
        *(f"/v1/shop/items/{number}" for number in range(7)),
        "/sub/things/a/b",
        "/sub/nothing",
        "/plain/x",
        "/unavailable",
        "/missing",
        *(f"/nowhere/{number}" for number in range(5)),
    ]
    assert server.ask(*paths) == [200] * 7 + [200, 404, 200, 503, 404] + [404] * 5
    assert server.ask("/raises") == [500]
    assert server.ask("/v1/shop/items/1", method="POST") == [200]
    assert server.ask("/v1/shop/items/1", method="OPTIONS") == [405]
    assert server.ask("/plain", method="HEAD") == [307]
    assert server.ask("/nowhere", method="NONSENSE") == [404]
    server.wait_for_rows(
        {
            ("GET /v1/shop/items/{item_id}", "useful"): 7,
            ("POST /v1/shop/items/{item_id}", "useful"): 1,
            ("OPTIONS /v1/shop/items/{item_id}", "useful"): 1,
            ("GET /sub/things/{thing:path}", "useful"): 1,
            ("GET /sub (no route)", "useful"): 1,
            ("GET /plain", "useful"): 1,
            ("GET /unavailable", "failed"): 1,
            ("GET /missing", "useful"): 1,
            ("GET /raises", "failed"): 1,
            ("GET (no route)", "useful"): 5,
            ("HEAD (no route)", "useful"): 1,
            ("HTTP (no route)", "useful"): 1,
        }
    )
    assert server.told()["class"] == "web"


@pytest.mark.parametrize("command", SERVERS.values(), ids=SERVERS.keys())
def test_a_request_ends_with_its_stream_its_background_tasks_or_its_client(
    serve: Callable[..., Server], command: tuple[str, ...]
) -> None:
    server = serve(command)
    assert server.ask("/background/1", "/pieces/1") == [200, 200]
    server.hang_up("/endless")
    server.wait_for_rows(
        {
            ("GET /background/{number}", "useful"): 1,
            ("GET /pieces/{number}", "useful"): 1,
            ("GET /endless", "cancelled"): 1,
        }
    )


@pytest.mark.parametrize("command", SERVERS.values(), ids=SERVERS.keys())
def test_a_websocket_is_one_request_and_its_client_may_close_it(
    serve: Callable[..., Server], command: tuple[str, ...]
) -> None:
    async def talk(port: int) -> list[str]:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{port}/ws/7") as one:
            await one.send_str("a")
            await one.send_str("b")
            return [await one.receive_str(), await one.receive_str()]

    server = serve(command)
    assert asyncio.run(talk(server.port)) == ["a", "b"]
    server.wait_for_rows({("WEBSOCKET /ws/{room}", "useful"): 1})


BURNING = [*(f"/{kind}/{name}" for kind in ("async", "sync") for name in ("one", "two", "three"))]
IN_PARTS = ["/background", "/pieces"]
"""Three threads and more one after another for each request: the framework's share is not quite the same each time."""


@pytest.mark.parametrize("command", SERVERS.values(), ids=SERVERS.keys())
def test_what_coroutines_and_functions_in_threads_use_is_billed_to_their_routes(
    serve: Callable[..., Server], command: tuple[str, ...]
) -> None:
    server = serve(command)
    with ThreadPoolExecutor(3) as clients:
        billed, truth = server.serve_and_compare(
            lambda number: list(clients.map(server.ask, [f"{path}/{number}" for path in BURNING + IN_PARTS] * 3))
        )
    assert sorted(truth) == sorted(f"GET {path}/{{number}}" for path in BURNING + IN_PARTS)
    for paths, tolerance in ((BURNING, 0.03), (IN_PARTS, 0.06)):
        names = [f"GET {path}/{{number}}" for path in paths]
        assert [billed[name] for name in names] == pytest.approx([truth[name] for name in names], rel=tolerance)


def test_uninstalling_leaves_the_classes_as_they_were() -> None:
    owners: list[Any] = [Starlette, FastAPI, Route, WebSocketRoute, Mount, APIRoute, APIWebSocketRoute]
    before = [dict(vars(owner)) for owner in owners]
    starlette_routes.install()
    assert [owner for owner, was in zip(owners, before, strict=True) if vars(owner) != was] == [
        Starlette,
        Route,
        WebSocketRoute,
        Mount,
        APIRoute,
    ]
    starlette_routes.uninstall()
    assert [dict(vars(owner)) for owner in owners] == before


def test_an_application_called_within_a_request_is_a_request_of_its_own(hooked: None) -> None:
    async def inner(_: Request) -> Response:
        return Response()

    async def outer(_: Request) -> Response:
        await call(Starlette(routes=[Route("/inner", inner)]), "/inner")
        return Response()

    asyncio.run(call(Starlette(routes=[Route("/outer", outer)]), "/outer"))
    assert numbers() == {("GET /inner", "useful"): 1, ("GET /outer", "useful"): 1}


def test_middleware_that_hands_on_a_copy_of_the_scope_is_seen_through(hooked: None) -> None:
    async def answer(_: Request) -> Response:
        return Response()

    app = Starlette(routes=[Route("/{name}", answer)])

    async def copying(scope: Scope, receive: Receive, send: Send) -> None:
        await app(dict(scope), receive, send)

    asyncio.run(call(Starlette(routes=[Mount("/sub", copying)]), "/sub/x"))
    assert numbers() == {("GET /sub/{name}", "useful"): 1}


def test_a_cancelled_request_is_cancelled_and_stays_so_for_its_task(hooked: None) -> None:
    async def forever(_: Request) -> Response:
        await asyncio.sleep(3600)
        return Response()

    async def cancel() -> bool:
        task = asyncio.create_task(call(Starlette(routes=[Route("/", forever)]), "/"))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return task.cancelled()

    assert asyncio.run(cancel())
    assert numbers() == {("GET /", "cancelled"): 1}


def test_an_exception_leaves_the_application_as_it_was(hooked: None) -> None:
    error = ValueError("as it was")

    async def raises(_: Request) -> Response:
        raise error

    with pytest.raises(ValueError, match="as it was") as caught:
        asyncio.run(call(Starlette(routes=[Route("/", raises)]), "/"))
    assert caught.value is error
    assert numbers() == {("GET /", "failed"): 1}
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    assert sum("taskwatt_web" in name for name in frames) == 1


def test_a_label_in_a_request_takes_its_route(hooked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_integrations, "_active", True)

    async def renders(_: Request) -> Response:
        with taskwatt.label("render"):
            await asyncio.sleep(0)
        return Response()

    asyncio.run(call(Starlette(routes=[Route("/page/{name}", renders)]), "/page/x"))
    assert numbers() == {("GET /page/{name}", "useful"): 1, ("GET /page/{name}[render]", "useful"): 1}


def test_requests_of_made_up_methods_and_paths_stay_few(hooked: None) -> None:
    async def ask() -> None:
        app = Starlette()
        for number in range(1000):
            await call(app, f"/{number}", f"METHOD{number}")

    asyncio.run(ask())
    assert numbers() == {("HTTP (no route)", "useful"): 1000}


def numbers() -> dict[tuple[str, str], int]:
    return {key: row.number for key, row in accounts.rows().items() if row.number}


async def call(app: Any, path: str, method: str = "GET") -> None:
    """One request, as a server would hand it over."""
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": [], "root_path": ""}

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        pass

    await app(scope, receive, send)


def test_opentelemetry_s_instrumentation_and_ours_do_not_disturb_each_other(serve: Callable[..., Server]) -> None:
    server = serve((*UVICORN, "tests.support.apps.instrumented_app:app"))
    assert server.ask("/v1/shop/items/1", "/sub/things/2", "/unavailable", "/nowhere") == [200, 200, 503, 404]
    server.wait_for_rows(
        {
            ("GET /v1/shop/items/{item_id}", "useful"): 1,
            ("GET /sub/things/{thing:path}", "useful"): 1,
            ("GET /unavailable", "failed"): 1,
            ("GET (no route)", "useful"): 1,
        }
    )
    assert "Traceback" not in server.log
