"""Synchronous workers of gunicorn with an application that tells no routes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from gunicorn.http.wsgi import Response
from gunicorn.workers.gthread import ThreadWorker
from gunicorn.workers.sync import SyncWorker

from taskwatt_web import wsgi
from tests.support.server import GUNICORN, Server

APP = "tests.support.apps.wsgi_app"
COMMANDS = {
    "sync": (*GUNICORN, APP),
    "gthread": (*GUNICORN, "-k", "gthread", "--threads", "3", APP),
    "sync, preloaded": (*GUNICORN, "--preload", APP),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_requests_without_a_route_share_a_row_and_their_iterable_belongs_to_them(
    serve: Callable[..., Server], command: tuple[str, ...]
) -> None:
    server = serve(command)
    for number in range(5):
        assert server.ask(f"/{number}") == [200]
        assert server.ask(f"/{number}", method="POST") == [200]
    assert server.ask("/raises") == [500]
    assert server.ask("/unavailable") == [503]
    told = server.told()
    assert told["class"] == "web"
    # What was answered may be pending still: its thread may not have come to its end. Its outcome is then yet to come.
    rows = Counter({(name.removesuffix(" (no route)"), outcome): number for name, outcome, number, _ in told["rows"]})
    pending = {method: rows.pop((method, "pending"), 0) for method in ("GET", "POST")}
    assert rows <= Counter({("GET", "useful"): 5, ("GET", "failed"): 2, ("POST", "useful"): 5})
    assert rows.total() + sum(pending.values()) == 5 + 2 + 5 + 1, "with the one that asks"
    assert rows["POST", "useful"] + pending["POST"] == 5
    billed, truth = server.serve_and_compare(lambda number: [server.ask(f"/{number}", method="POST") for _ in range(5)])
    assert billed["POST (no route)"] == pytest.approx(truth["POST (no route)"], rel=0.03)


def test_uninstalling_leaves_the_classes_as_they_were() -> None:
    owners: list[Any] = [SyncWorker, ThreadWorker, Response]
    before = [dict(vars(owner)) for owner in owners]
    wsgi.install()
    assert [owner for owner, was in zip(owners, before, strict=True) if vars(owner) != was] == owners
    wsgi.uninstall()
    assert [dict(vars(owner)) for owner in owners] == before
