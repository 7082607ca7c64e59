"""One request of a web server: an account whose row is `METHOD route`.

The route is the template that the framework's router matched, never the path, so that rows stay few. Until it is known,
and where there is none, requests share `METHOD (no route)`. Methods that no standard names share `HTTP`, as in
OpenTelemetry's span names: a client may send any word.

What is done at each request is written twice, as accounts are: here, and in C (taskwatt_fast/requests.c).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from taskwatt import accounts
from taskwatt.accounts import Account
from taskwatt.observations import Outcome
from taskwatt.runtime import runtime

NO_ROUTE: Final = "(no route)"
WEBSOCKET: Final = "WEBSOCKET"
_OTHER: Final = "HTTP"
_METHODS: Final = ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE", WEBSOCKET)
_FIRST_ERROR: Final = 500


class _Names(dict[str, str]):
    """Names of rows by route, for one method: what is asked for at every request is made once."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self._method = method
        self.unrouted = f"{method} {NO_ROUTE}"

    def __missing__(self, route: str) -> str:
        name = f"{self._method} {route}"
        if len(self) < accounts.MAX_NAMES:
            self[route] = name
        return name


_NAMES: Final = {method: _Names(method) for method in (*_METHODS, _OTHER)}
_UNKNOWN: Final = _NAMES[_OTHER]


class _InPython(Account):
    """Open from `begin` to `end`; current in the context that began it, and in those copied from that."""

    if not accounts.IN_C:
        __slots__ = ("names", "prefix", "route", "source", "status")

    names: _Names
    source: object
    """What a framework tells its requests apart by; None once it has ended. Nothing that may hold the request."""
    prefix: str
    """Of applications that are mounted in each other."""
    route: int
    """`id` of the one that a framework found last, or 0."""
    status: int

    def matched(self, route: str) -> None:
        """A router found this template for it; the last one counts."""
        if not self.closed:
            self.rename(self.names[route])

    def end(self, outcome: Outcome) -> None:
        """Idempotent. `useful` becomes `failed` when the server was at fault (5xx)."""
        self.source = None
        self.close("failed" if self.status >= _FIRST_ERROR and outcome == "useful" else outcome)


if TYPE_CHECKING or not accounts.IN_C:  # noqa: SIM108  # mypy takes no conditional expression for a class
    Request = _InPython
else:
    Request = accounts.part_in_c.Request


_told = False
"""Has this process said that it serves?"""


def _tell() -> None:
    """A process that serves measures itself from its first request on. Not in a pre-forking master."""
    runtime.measure_self("web")


def _begun_in_python(method: str, source: object = None) -> Request:
    global _told
    if not _told:
        _told = True
        _tell()
    names = _NAMES.get(method, _UNKNOWN)
    request = Request.begin(names.unrouted)
    request.names = names
    request.source = source
    request.prefix = ""
    request.route = 0
    request.status = 0
    return request


def forget() -> None:
    """The next request is the first one."""
    global _told
    _told = False
    if accounts.IN_C:
        accounts.part_in_c.forget_requests()


# Cannot be taken back. Asking for the process's id at each request would be a system call.
os.register_at_fork(after_in_child=forget)


def _current_in_python() -> Request | None:
    one = accounts.account.get()
    while one is not None and not isinstance(one, Request):
        one = one.around
    return one if one is not None and not one.closed else None


def _matched_in_python(route: object) -> None:
    request = _current_in_python()
    if request is not None and isinstance(route, str):
        request.matched(route)


begin: Callable[..., Request] = _begun_in_python
"""`(method, source=None)`: a request has come in, in the context and on the thread that will serve it."""
current: Callable[[], Request | None] = _current_in_python
"""The request that is served in this context; None when it has ended."""
matched: Callable[[object], None] = _matched_in_python
"""A router found this template for it (a str; nothing else is one)."""
if accounts.IN_C:
    accounts.part_in_c.set_up_requests(_NAMES, _UNKNOWN, _tell)
    begin = accounts.part_in_c.begin_request
    current, matched = accounts.part_in_c.current_request, accounts.part_in_c.match_request


def outcome_of(error: BaseException) -> Outcome:
    """What a request came to that an exception left. A cancellation is no `Exception`."""
    return "failed" if isinstance(error, Exception) else "cancelled"
