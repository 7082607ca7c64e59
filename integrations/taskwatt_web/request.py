"""One request of a web server: an account whose row is `METHOD route`.

The route is the template that the framework's router matched, never the path, so that rows stay few. Until it is known,
and where there is none, requests share `METHOD (no route)`. Methods that no standard names share `HTTP`, as in
OpenTelemetry's span names: a client may send any word.
"""

from __future__ import annotations

import os
from typing import Final

from taskwatt import accounts
from taskwatt.observations import Outcome
from taskwatt.runtime import runtime

NO_ROUTE: Final = "(no route)"
WEBSOCKET: Final = "WEBSOCKET"
_OTHER: Final = "HTTP"
_METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE", WEBSOCKET}
)
_UNROUTED: Final = {method: f"{method} {NO_ROUTE}" for method in (*_METHODS, _OTHER)}
_FIRST_ERROR: Final = 500


class Request:
    """Open from `begin` to `end`; current in the context that began it, and in those copied from that.

    It is found by its account, so that one context variable is set for both.
    """

    __slots__ = ("_account", "method", "open", "prefix", "source", "status")

    def __init__(self, method: str, source: object) -> None:
        self.method = method if method in _METHODS else _OTHER
        self.source = source
        """What a framework tells its requests apart by."""
        self.prefix = ""
        """Of applications that are mounted in each other."""
        self.status = 0
        self.open = True
        self._account = accounts.open_account(_UNROUTED[self.method], self)

    def matched(self, route: str) -> None:
        """A router found this template for it; the last one counts."""
        name = f"{self.method} {route}"
        if self.open and name != self._account.name:
            self._account.rename(name)

    def end(self, outcome: Outcome) -> None:
        """Idempotent. `useful` becomes `failed` when the server was at fault (5xx)."""
        if not self.open:
            return
        self.open = False
        self._account.close("failed" if outcome == "useful" and self.status >= _FIRST_ERROR else outcome)
        del self._account  # they hold each other: nothing should wait for the garbage collector


_told = 0
"""The process that has said that it serves."""


def begin(method: str, source: object = None) -> Request:
    """A request has come in, in the context and on the thread that will serve it. Not in a pre-forking master.

    A process that serves measures itself from its first request on.
    """
    global _told
    if _told != os.getpid():
        _told = os.getpid()
        runtime.measure_self("web")
    return Request(method, source)


def forget() -> None:
    """The next request is the first one."""
    global _told
    _told = 0


def current() -> Request | None:
    """The request that is served in this context; None when it has ended."""
    account = accounts.account.get()
    while account is not None:
        request = account.opener
        if isinstance(request, Request):
            return request if request.open else None
        account = account.around
    return None


def outcome_of(error: BaseException) -> Outcome:
    """What a request came to that an exception left. A cancellation is no `Exception`."""
    return "failed" if isinstance(error, Exception) else "cancelled"
