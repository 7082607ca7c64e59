"""Where a request enters an ASGI application, and how it leaves it.

Around `__call__` of the application's class, so that what the server does for a request (parsing, writing) stays with
the server. The request ends when the application returns: after a streamed response, after background tasks.

Failed: it raised, or it answered 5xx. Cancelled: the client went away before the response had ended, or the task was
cancelled. A WebSocket that its client closes has ended well, also where the application lets that be an exception.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from functools import wraps
from typing import Any, TypeAlias

from taskwatt.observations import Outcome
from taskwatt_web.request import WEBSOCKET, Request, begin, current, outcome_of

log = logging.getLogger("taskwatt")

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_SERVED = ("http", "websocket")
_STATUS = ("http.response.start", "websocket.http.response.start")
_BODY = ("http.response.body", "websocket.http.response.body")
_broken: list[Exception] = []


def entering(original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """`original`: an ASGI application's `__call__(self, scope, receive, send)`."""

    @wraps(original)
    async def __call__(self: Any, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: N807
        exchange = _enter(scope, receive, send)
        if exchange is None:
            await original(self, scope, receive, send)
            return
        try:
            await original(self, scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.end(error)
            raise
        exchange.end(None)

    return __call__


def is_of(request: Request, scope: Scope) -> bool:
    """Is this the scope of that request? Middleware may hand on a copy, which keeps the list of headers."""
    return request.source is scope or getattr(request.source, "get", _nothing)("headers") is scope.get("headers", scope)


def _nothing(_: str) -> None:
    pass


class _Exchange:
    """The messages of one request between server and application."""

    __slots__ = ("_gone", "_receive", "_request", "_send", "_told")

    def __init__(self, request: Request, receive: Receive, send: Send) -> None:
        self._request = request
        self._receive = receive
        self._send = send
        self._told = False
        self._gone = False

    async def receive(self) -> Message:
        message = await self._receive()
        if not self._told and message.get("type") == "http.disconnect":
            self._gone = True
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Not a coroutine itself: what it gives is the server's."""
        try:
            kind = message["type"]
            if kind in _BODY:
                self._told = self._told or not message.get("more_body", False)
            elif kind in _STATUS:
                self._request.status = int(message["status"])
        except Exception:  # a malformed message is for the server to refuse
            pass
        return self._send(message)

    def end(self, error: BaseException | None) -> None:
        try:
            self._request.end(self._outcome(error))
        except Exception as failure:
            _give_up(failure)

    def _outcome(self, error: BaseException | None) -> Outcome:
        if type(error).__name__ == "WebSocketDisconnect":
            return "useful"
        if self._gone or type(error).__name__ == "ClientDisconnect":
            return "cancelled"
        return "useful" if error is None else outcome_of(error)


def _enter(scope: Scope, receive: Receive, send: Send) -> _Exchange | None:
    """None for what is no request, and for an application mounted in another one."""
    try:
        if _broken or scope["type"] not in _SERVED:
            return None
        around = current()
        if around is not None and is_of(around, scope):
            return None
        method = WEBSOCKET if scope["type"] == "websocket" else str(scope.get("method", ""))
        return _Exchange(begin(method, scope), receive, send)
    except Exception as error:
        _give_up(error)
        return None


def _give_up(error: Exception) -> None:
    if not _broken:
        _broken.append(error)
        log.warning("taskwatt stopped telling requests of ASGI applications apart: %r", error, exc_info=error)
