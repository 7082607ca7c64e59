"""Requests of gunicorn's synchronous workers: `sync` and `gthread`.

Supported: gunicorn from 20. A request is `handle_request` of the worker: the application's call, its iterable, writing
the response. Its route is told by a framework's hook where there is one (Django); else it is `METHOD (no route)`.
Workers that run an event loop are seen by their framework; gevent and eventlet workers are not measured.

No loop runs in these threads, so the thread's own clock is read at both ends (taskwatt/pieces.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

from taskwatt import pieces
from taskwatt.observations import Outcome
from taskwatt.pieces import Piece
from taskwatt_web.patches import Patches
from taskwatt_web.request import Request, begin, current, outcome_of

log = logging.getLogger("taskwatt")

_broken: list[Exception] = []


class Served(NamedTuple):
    """A request that a thread serves from beginning to end."""

    request: Request
    piece: Piece | None
    """None where an event loop, or a thread pool's item, is being measured anyway."""


def install() -> None:
    """Called when gunicorn.workers.base has been imported: in the master, which forks the workers."""
    _patches.install()


def uninstall() -> None:
    """Leave gunicorn as it was."""
    _patches.uninstall()


def enter(method: str) -> Served | None:
    """A request comes in on this thread; None, said once, when that cannot be noted."""
    try:
        if _broken:
            return None
        piece = pieces.begin() if pieces.here() is None and not pieces.loop_runs() else None
        try:
            return Served(begin(method), piece)
        except BaseException:
            if piece is not None:
                pieces.end(piece)
            raise
    except Exception as error:
        _give_up(error)
        return None


def leave(served: Served, outcome: Outcome) -> None:
    """On the thread that entered. Idempotent; never raises."""
    try:
        served.request.end(outcome)
        if served.piece is not None:
            pieces.end(served.piece)
    except Exception as error:
        _give_up(error)


def _serving(request_at: int) -> Callable[[Any], Any]:
    """`request_at`: which argument of `handle_request` is gunicorn's request."""

    def replacement(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def handle_request(self: Any, *args: Any) -> Any:
            method = getattr(args[request_at], "method", "") if len(args) > request_at else ""
            served = enter(str(method))
            if served is None:
                return original(self, *args)
            try:
                answered = original(self, *args)
            except BaseException as error:
                leave(served, _outcome(error))
                raise
            leave(served, "useful")
            return answered

        return handle_request

    return replacement


def _outcome(error: BaseException) -> Outcome:
    """gunicorn raises StopIteration to end a connection, after it has logged what went wrong; an OSError is the
    client's end of it."""
    return "cancelled" if isinstance(error, OSError) else outcome_of(error)


def _noting(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def start_response(self: Any, status: Any, *args: Any, **kwargs: Any) -> Any:
        request = current()
        if request is not None and isinstance(status, str) and status[:3].isdigit():
            request.status = int(status[:3])
        return original(self, status, *args, **kwargs)

    return start_response


def _give_up(error: Exception) -> None:
    if not _broken:
        _broken.append(error)
        log.warning("taskwatt stopped telling requests of synchronous workers apart: %r", error, exc_info=error)


_patches = Patches(
    {
        "gunicorn.workers.sync": {("SyncWorker", "handle_request"): _serving(1)},
        "gunicorn.workers.gthread": {("ThreadWorker", "handle_request"): _serving(0)},
        "gunicorn.http.wsgi": {("Response", "start_response"): _noting},
    }
)
