"""Django under ASGI and under WSGI, its views in the loop, in threads, and in gunicorn's workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.base import BaseHandler
from django.core.handlers.wsgi import WSGIHandler

from taskwatt_web import django_routes
from tests.support.server import GUNICORN, HYPERCORN, UVICORN, Server

pytestmark = pytest.mark.alone

ASGI, WSGI = "tests.support.apps.django_app:asgi", "tests.support.apps.django_app:application"
SERVERS = {
    "uvicorn": (*UVICORN, ASGI),
    "hypercorn": (*HYPERCORN, ASGI),
    "gunicorn sync": (*GUNICORN, WSGI),
    "gunicorn gthread": (*GUNICORN, "-k", "gthread", "--threads", "3", WSGI),
    "the standard library's": ("-m", "tests.support.apps.django_app", "{port}"),
}

BURNING = ("/shop/items/{}/", "/shop/async/{}/", "/stream/{}")


@pytest.mark.parametrize("command", SERVERS.values(), ids=SERVERS.keys())
def test_requests_are_told_apart_by_route_and_outcome(serve: Callable[..., Server], command: tuple[str, ...]) -> None:
    server = serve(command)
    for path in ("/shop/items/1/", "/shop/items/2/", "/shop/async/3/", "/stream/4"):
        assert server.ask(path) == [200]
    assert server.ask("/raises") == [500]
    assert server.ask("/archive/2026/") == [503]
    assert server.ask("/nowhere/1") == [404]
    assert server.ask("/nowhere/2") == [404]
    server.wait_for_rows(
        {
            ("GET /shop/items/<int:item_id>/", "useful"): 2,
            ("GET /shop/async/<int:item_id>/", "useful"): 1,
            ("GET /stream/<int:number>", "useful"): 1,
            ("GET /raises", "failed"): 1,
            ("GET ^archive/(?P<year>[0-9]{4})/$", "failed"): 1,
            ("GET (no route)", "useful"): 2,
        }
    )
    assert server.told()["class"] == "web"


@pytest.mark.parametrize("command", SERVERS.values(), ids=SERVERS.keys())
def test_what_views_use_is_billed_to_their_routes(serve: Callable[..., Server], command: tuple[str, ...]) -> None:
    server = serve(command)
    billed, truth = server.serve_and_compare(lambda number: [server.ask(path.format(number)) for path in BURNING * 3])
    assert billed == pytest.approx(truth, rel=0.03)


def test_uninstalling_leaves_the_classes_as_they_were() -> None:
    owners: list[Any] = [BaseHandler, ASGIHandler, WSGIHandler]
    before = [dict(vars(owner)) for owner in owners]
    django_routes.install()
    assert [owner for owner, was in zip(owners, before, strict=True) if vars(owner) != was] == owners
    django_routes.uninstall()
    assert [dict(vars(owner)) for owner in owners] == before
