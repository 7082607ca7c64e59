"""An aiohttp server: one task serves a connection, and each of its requests is a row."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_runner import BaseSite
from aiohttp.web_urldispatcher import UrlMappingMatchInfo

from taskwatt_web import aiohttp_routes
from tests.support.server import Server

COMMANDS = {
    "run_app": ("-m", "tests.support.apps.aiohttp_app", "{port}"),
    "a runner of one's own": ("-m", "tests.support.apps.aiohttp_app", "{port}", "by-hand"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_requests_of_one_connection_are_told_apart(serve: Callable[..., Server], command: tuple[str, ...]) -> None:
    server = serve(command)
    paths = [*(f"/items/{number}" for number in range(7)), "/sub/things/a/b", "/nowhere/1", "/nowhere/2"]
    assert server.ask(*paths, "/unavailable", "/raises") == [200] * 8 + [404] * 2 + [503, 500]
    assert server.ask("/items/1", method="HEAD") == [200]
    assert server.ask("/items/1", method="DELETE") == [405]
    assert server.ask("/items/1", method="NONSENSE") == [400]
    server.wait_for_rows(
        {
            ("GET /items/{item_id}", "useful"): 7,
            ("HEAD /items/{item_id}", "useful"): 1,
            ("GET /sub/things/{thing}", "useful"): 1,
            ("GET (no route)", "useful"): 2,
            ("DELETE (no route)", "useful"): 1,
            ("HTTP (no route)", "useful"): 1,
            ("GET /unavailable", "failed"): 1,
            ("GET /raises", "failed"): 1,
        }
    )


def test_a_client_that_hangs_up_cancels_and_a_websocket_is_one_request(serve: Callable[..., Server]) -> None:
    async def talk(port: int) -> str:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{port}/ws/7") as one:
            await one.send_str("a")
            return await one.receive_str()

    server = serve(COMMANDS["run_app"])
    server.hang_up("/endless")
    assert asyncio.run(talk(server.port)) == "a"
    server.wait_for_rows({("GET /endless", "cancelled"): 1, ("WEBSOCKET /ws/{room}", "useful"): 1})


def test_what_a_request_uses_in_the_loop_and_in_threads_is_its_own(serve: Callable[..., Server]) -> None:
    server = serve(COMMANDS["run_app"])
    billed, truth = server.serve_and_compare(lambda number: server.ask(*[f"/threads/{number}", f"/loop/{number}"] * 3))
    assert billed == pytest.approx(truth, rel=0.03)


def test_uninstalling_leaves_the_classes_as_they_were() -> None:
    owners: list[Any] = [RequestHandler, BaseSite, UrlMappingMatchInfo]
    before = [dict(vars(owner)) for owner in owners]
    aiohttp_routes.install()
    assert [owner for owner, was in zip(owners, before, strict=True) if vars(owner) != was] == owners
    aiohttp_routes.uninstall()
    assert [dict(vars(owner)) for owner in owners] == before
