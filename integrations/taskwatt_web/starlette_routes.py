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
from functools import wraps
from typing import Any

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


def _noting(note: Callable[[Any, Mapping[str, Any]], None]) -> Callable[[Any], Any]:
    def replacement(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def handle(self: Any, scope: Any, *args: Any, **kwargs: Any) -> Any:
            if not _broken:
                try:
                    note(self, scope)
                except Exception as error:
                    _broken.append(error)
                    log.warning("taskwatt stopped reading routes of Starlette: %r", error, exc_info=error)
            return original(self, scope, *args, **kwargs)

        return handle

    return replacement


def _note_route(route: Any, scope: Any) -> None:
    request = current()
    if request is not None and asgi.is_of(request, scope):
        path = _effective_path(route, scope) or getattr(route, "path", None)
        if isinstance(path, str):
            request.matched(request.prefix + path)


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
    get = getattr(scope.get("fastapi"), "get", None)
    context: Any = get("effective_route_context") if callable(get) else None
    path = getattr(context, "path", None) if getattr(context, "original_route", None) is route else None
    return path if isinstance(path, str) else None


_patches = Patches(
    {
        "starlette.applications": {("Starlette", "__call__"): asgi.entering},
        "starlette.routing": {
            ("Route", "handle"): _noting(_note_route),
            ("WebSocketRoute", "handle"): _noting(_note_route),
            ("Mount", "handle"): _noting(_note_mount),
        },
        "fastapi.routing": {
            ("APIRoute", "handle"): _noting(_note_route),
            ("APIWebSocketRoute", "handle"): _noting(_note_route),
        },
    }
)
