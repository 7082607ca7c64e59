"""Requests of Starlette and FastAPI, billed to `METHOD route`.

Supported: Starlette from 0.27, FastAPI from 0.100, those that keep included routers nested (0.137) among them. What is
not as expected is left alone: its requests are `METHOD (no route)`.

A request enters at `Starlette.__call__`, outside of all middleware that is the application's own (asgi.py). Its route
is known when a router hands it on, to `Route.handle`, `WebSocketRoute.handle` or `Mount.handle`; these hooks return the
framework's own coroutine, so no frame is added. `scope["route"]` would be tamer: Starlette does not set it, and
FastAPI sets the route without what it was included under.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import update_wrapper, wraps
from typing import Any, cast

from taskwatt import accounts
from taskwatt_web import asgi
from taskwatt_web.patches import Patches
from taskwatt_web.request import NO_ROUTE, current

log = logging.getLogger("taskwatt")

_broken: list[Exception] = []


def install() -> None:
    """Called when starlette.routing has been imported."""
    _patches.install()


def uninstall() -> None:
    """Leave Starlette as it was."""
    _patches.uninstall()


def _noting(note: Callable[[Any, Any], None]) -> Callable[[Any], Any]:
    def replacement(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def handle(self: Any, scope: Any, *args: Any, **kwargs: Any) -> Any:
            if not _broken:
                try:
                    note(self, scope)
                except Exception as error:
                    _give_up(error)
            return original(self, scope, *args, **kwargs)

        return handle

    return replacement


def _handing(original: Callable[..., Any]) -> Callable[..., Any]:
    """The same for routes, in C where that is."""
    if not accounts.IN_C:
        return cast(Callable[..., Any], _noting(_note_route)(original))
    return update_wrapper(accounts.part_in_c.Handing(original, _give_up), original)


def _give_up(error: Exception) -> None:
    if not _broken:
        _broken.append(error)
        log.warning("taskwatt stopped reading routes of Starlette: %r", error, exc_info=error)


def _note_route(route: Any, scope: Any) -> None:
    request = current()
    if request is None or request.route == id(route) or not asgi.is_of(request, scope):
        return
    request.route = id(route)  # FastAPI's `handle` calls Starlette's
    path = _effective_path(route, scope) or getattr(route, "path", None)
    if isinstance(path, str):
        request.matched(request.prefix + path if request.prefix else path)


def _note_mount(mount: Any, scope: Any) -> None:
    request = current()
    if request is not None and asgi.is_of(request, scope):
        path = getattr(mount, "path", None)
        if isinstance(path, str):
            request.prefix += path
            has_routes = bool(getattr(mount, "routes", None))
            request.matched(f"{request.prefix} {NO_ROUTE}".lstrip() if has_routes else request.prefix or "/")


def _effective_path(route: Any, scope: Mapping[str, Any]) -> str | None:
    """FastAPI with nested routers: the route as it was included, prefixes and all."""
    own: Any = scope.get("fastapi")
    context: Any = cast(Any, own).get("effective_route_context") if isinstance(own, dict) else None
    if context is None or getattr(context, "original_route", None) is not route:
        return None
    path = getattr(context, "path", None)
    return path if isinstance(path, str) else None


_patches = Patches(
    {
        "starlette.applications": {("Starlette", "__call__"): asgi.entering},
        "starlette.routing": {
            ("Route", "handle"): _handing,
            ("WebSocketRoute", "handle"): _handing,
            ("Mount", "handle"): _noting(_note_mount),
        },
        "fastapi.routing": {
            ("APIRoute", "handle"): _handing,
            ("APIWebSocketRoute", "handle"): _handing,
        },
    }
)
