"""Requests of an aiohttp server, billed to `METHOD route`.

Supported: aiohttp from 3.8. What is not as expected is left alone: its requests are `METHOD (no route)`.

One task serves all requests of a connection, so a request is from entry to exit of `RequestHandler._handle_request`:
resolving, middlewares, the handler, writing the response. Its route is known when the application freezes what its
router found: `resource.canonical`, prefixes of sub-applications and all. Neither hook adds a frame to what the handler
raises: aiohttp catches that inside.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from taskwatt.observations import Outcome
from taskwatt.runtime import runtime
from taskwatt_web.patches import Patches
from taskwatt_web.request import WEBSOCKET, Request, begin, matched, outcome_of

log = logging.getLogger("taskwatt")

_broken: list[Exception] = []


def install() -> None:
    """Called when aiohttp.web has been imported."""
    _patches.install()


def uninstall() -> None:
    """Leave aiohttp as it was."""
    _patches.uninstall()


def _serving(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """aiohttp gives (response, whether the client was gone)."""

    @wraps(original)
    async def _handle_request(self: Any, incoming: Any, *args: Any, **kwargs: Any) -> Any:
        request: Request | None = None
        try:
            if not _broken:
                request = begin(_method(incoming))
        except Exception as error:
            _give_up(error)
        if request is None:
            return await original(self, incoming, *args, **kwargs)
        try:
            answered = await original(self, incoming, *args, **kwargs)
        except BaseException as error:
            _end(request, "cancelled" if _is_gone(self) else outcome_of(error))
            raise
        try:
            response, gone = answered
            request.status = response.status
            request.end("cancelled" if gone is True else "useful")
        except Exception:  # what it gave is none of the usual
            _end(request, "useful")
        return answered

    return _handle_request


def _noting(original: Callable[..., None]) -> Callable[..., None]:
    @wraps(original)
    def freeze(self: Any) -> None:
        original(self)
        try:
            canonical = self.route.resource.canonical
        except AttributeError:  # nothing matched
            return
        matched("/" if canonical == "" else canonical)

    return freeze


def _starting(original: Callable[..., Any]) -> Callable[..., Any]:
    """A site starts to listen: this process serves, though no server's name is on its command line."""

    @wraps(original)
    def start(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            runtime.measure_self("web")
        except Exception as error:
            _give_up(error)
        return original(self, *args, **kwargs)

    return start


def _method(incoming: Any) -> str:
    """The parser knows at once whether a request wants to upgrade its connection; its headers are asked only then."""
    message = getattr(incoming, "_message", incoming)
    method: str = message.method
    if method == "GET" and getattr(message, "upgrade", True):
        upgrade = incoming.headers.get("Upgrade")
        if isinstance(upgrade, str) and upgrade.lower() == "websocket":
            return WEBSOCKET
    return method


def _is_gone(handler: Any) -> bool:
    """Writing to a client that is gone raises in the user's handler, as any mistake of its own would."""
    transport = getattr(handler, "transport", None)
    return transport is None or transport.is_closing()


def _end(request: Request, outcome: Outcome) -> None:
    try:
        request.end(outcome)
    except Exception as error:
        _give_up(error)


def _give_up(error: Exception) -> None:
    if not _broken:
        _broken.append(error)
        log.warning("taskwatt stopped telling requests of aiohttp apart: %r", error, exc_info=error)


_patches = Patches(
    {
        "aiohttp.web_protocol": {("RequestHandler", "_handle_request"): _serving},
        "aiohttp.web_runner": {("BaseSite", "start"): _starting},
        "aiohttp.web_urldispatcher": {("UrlMappingMatchInfo", "freeze"): _noting},
    }
)
