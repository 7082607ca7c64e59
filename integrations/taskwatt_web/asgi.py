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
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from taskwatt import accounts
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
        exchange: _Exchange | None = None
        try:
            if not _broken:
                exchange = _enter(scope, receive, send)
        except Exception as error:
            _give_up(error)
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


def is_of(one: Request, scope: Scope) -> bool:
    """Is this the scope of that request?"""
    return one.source is _identity(scope)


def _identity(scope: Scope) -> object:
    """Middleware may hand on a copy, which keeps the list of headers."""
    headers = scope.get("headers")
    return scope if headers is None else headers


class _InPython:
    """What there is of `Exchange` in C, too (taskwatt_fast/exchanges.c)."""

    __slots__ = ("_send", "gone", "request", "server_receives", "told")

    def __init__(self, request: Request, receive: Receive, send: Send) -> None:
        self.request = request
        self.server_receives = receive
        self._send = send
        self.told = False
        """Has the whole response been sent?"""
        self.gone = False
        """Did the client go before?"""

    @classmethod
    def enter(cls, scope: Scope, receive: Receive, send: Send) -> Self | None:
        """None for what is no request, and for an application mounted in another one."""
        kind = scope["type"]
        if kind not in _SERVED:
            return None
        around = current()
        if around is not None and is_of(around, scope):
            return None
        method = WEBSOCKET if kind == "websocket" else str(scope.get("method", ""))
        return cls(begin(method, _identity(scope)), receive, send)

    def send(self, message: Message) -> Awaitable[None]:
        """Not a coroutine itself: what it gives is the server's."""
        try:
            kind = message["type"]
            if kind in _STATUS:
                self.request.status = int(message["status"])
            elif kind in _BODY and not message.get("more_body", False):
                self.told = True
        except Exception:  # a malformed message is for the server to refuse
            pass
        return self._send(message)


if TYPE_CHECKING or not accounts.IN_C:  # noqa: SIM108  # mypy takes no conditional expression for a base class
    _Base = _InPython
else:
    _Base = accounts.part_in_c.Exchange


class _Exchange(_Base):
    """The messages of one request between server and application."""

    __slots__ = ()

    async def receive(self) -> Message:
        message: Message = await self.server_receives()
        if not self.told and message.get("type") == "http.disconnect":
            self.gone = True
        return message

    def end(self, error: BaseException | None) -> None:
        try:
            request: Request = self.request
            request.end("useful" if error is None and not self.gone else self._outcome(error))
        except Exception as failure:
            _give_up(failure)

    def _outcome(self, error: BaseException | None) -> Outcome:
        if type(error).__name__ == "WebSocketDisconnect":
            return "useful"
        if self.gone or type(error).__name__ == "ClientDisconnect":
            return "cancelled"
        return "useful" if error is None else outcome_of(error)


_enter: Callable[[Scope, Receive, Send], _Exchange | None] = _Exchange.enter


def _give_up(error: Exception) -> None:
    if not _broken:
        _broken.append(error)
        log.warning("taskwatt stopped telling requests of ASGI applications apart: %r", error, exc_info=error)
