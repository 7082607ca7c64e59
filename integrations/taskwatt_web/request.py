"""One request of a web server: an account whose row is `METHOD route`.

The route is the template that the framework's router matched, never the path, so that rows stay few. Until it is known,
and where there is none, requests share `METHOD (no route)`. Methods that no standard names share `HTTP`, as in
OpenTelemetry's span names: a client may send any word.
"""

from __future__ import annotations

import os
from typing import Final

from taskwatt import accounts
from taskwatt.accounts import Account
from taskwatt.observations import Outcome
from taskwatt.runtime import runtime

NO_ROUTE: Final = "(no route)"
WEBSOCKET: Final = "WEBSOCKET"
_OTHER: Final = "HTTP"
_METHODS: Final = ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE", WEBSOCKET)
_UNROUTED: Final = {method: f"{method} {NO_ROUTE}" for method in (*_METHODS, _OTHER)}
_FIRST_ERROR: Final = 500


class Request(Account):
    """Open from `begin` to `end`; current in the context that began it, and in those copied from that."""

    __slots__ = ("method", "prefix", "source", "status")

    def __init__(self, method: str, source: object) -> None:
        self.method = method if method in _UNROUTED else _OTHER
        self.source = source
        """What a framework tells its requests apart by."""
        self.prefix = ""
        """Of applications that are mounted in each other."""
        self.status = 0
        super().__init__(_UNROUTED[self.method])

    def matched(self, route: str) -> None:
        """A router found this template for it; the last one counts."""
        if not self.closed:
            self.rename(f"{self.method} {route}")

    def end(self, outcome: Outcome) -> None:
        """Idempotent. `useful` becomes `failed` when the server was at fault (5xx)."""
        self.close("failed" if outcome == "useful" and self.status >= _FIRST_ERROR else outcome)


_told = False
"""Has this process said that it serves?"""


def begin(method: str, source: object = None) -> Request:
    """A request has come in, in the context and on the thread that will serve it. Not in a pre-forking master.

    A process that serves measures itself from its first request on.
    """
    global _told
    if not _told:
        _told = True
        runtime.measure_self("web")
    request = Request(method, source)
    request.open()
    return request


def forget() -> None:
    """The next request is the first one."""
    global _told
    _told = False


# Cannot be taken back. Asking for the process's id at each request would be a system call.
os.register_at_fork(after_in_child=forget)


def current() -> Request | None:
    """The request that is served in this context; None when it has ended."""
    one = accounts.account.get()
    while one is not None and not isinstance(one, Request):
        one = one.around
    return one if one is not None and not one.closed else None


def outcome_of(error: BaseException) -> Outcome:
    """What a request came to that an exception left. A cancellation is no `Exception`."""
    return "failed" if isinstance(error, Exception) else "cancelled"
