"""Requests of Django, under ASGI and WSGI, billed to `METHOD route`.

Supported: Django from 4.2. The route is `resolver_match.route`, with all that was included, and a leading slash.

Under ASGI a request is a call of `ASGIHandler` (asgi.py); synchronous views and middleware run in threads of asgiref,
whose items are billed to the request (taskwatt_asyncio/executors.py). Under WSGI gunicorn's hook (wsgi.py) has opened
the request; with any other server it is open from `WSGIHandler.__call__` until the server closes the response. In both
cases `resolve_request` is where the route becomes known.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from taskwatt_web import asgi, wsgi
from taskwatt_web.patches import Patches
from taskwatt_web.request import current, matched, outcome_of


def install() -> None:
    """Called when django.core.handlers.base has been imported."""
    _patches.install()


def uninstall() -> None:
    """Leave Django as it was."""
    _patches.uninstall()


def _noting(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def resolve_request(self: Any, *args: Any, **kwargs: Any) -> Any:
        match = original(self, *args, **kwargs)
        route = getattr(match, "route", None)
        if isinstance(route, str):
            matched(route if route.startswith(("/", "^")) else f"/{route}")
        return match

    return resolve_request


def _serving(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def __call__(self: Any, environ: Any, start_response: Any) -> Any:  # noqa: N807
        served = None if current() is not None else wsgi.enter(str(environ.get("REQUEST_METHOD", "")))
        if served is None:
            return original(self, environ, start_response)
        try:
            response = original(self, environ, start_response)
        except BaseException as error:
            wsgi.leave(served, outcome_of(error))
            raise
        status = getattr(response, "status_code", 0)
        served.request.status = status if isinstance(status, int) else 0
        closers = getattr(response, "_resource_closers", None)
        if isinstance(closers, list):
            closers.append(lambda: wsgi.leave(served, "useful"))  # pyright: ignore[reportUnknownMemberType]
        else:  # the server's own file wrapper, which no Python code reads
            wsgi.leave(served, "useful")
        return response

    return __call__


_patches = Patches(
    {
        "django.core.handlers.base": {("BaseHandler", "resolve_request"): _noting},
        "django.core.handlers.asgi": {("ASGIHandler", "__call__"): asgi.entering},
        "django.core.handlers.wsgi": {("WSGIHandler", "__call__"): _serving},
    }
)
