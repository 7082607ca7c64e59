"""The end of a uvicorn server: the last figures are sent before it kills itself.

Supported: uvicorn 0.29 and newer. A server that was asked to end by SIGTERM shuts down in order and then raises that
signal once more, with its default action: nothing that is registered to run at exit does. Hooked is `capture_signals`,
the context in which a server runs, because the signal is raised where it ends and nothing else tells.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any

from taskwatt.runtime import runtime

log = logging.getLogger("taskwatt")

_originals: list[Any] = []


def install() -> None:
    """Called when uvicorn.server has been imported."""
    server = _server()
    original = getattr(server, "capture_signals", None)
    if original is not None and not _originals:
        _originals.append(original)
        server.capture_signals = _stopping_first(original)


def uninstall() -> None:
    """Leave uvicorn as it was."""
    server = _server()
    while _originals:
        original = _originals.pop()
        if getattr(server.capture_signals, "__wrapped__", None) is original:
            server.capture_signals = original


def _stop() -> None:
    try:
        runtime.stop()
    except Exception as error:
        log.warning("taskwatt did not stop cleanly: %r", error, exc_info=error)


def _server() -> Any:
    from uvicorn.server import Server

    return Server


def _stopping_first(
    original: Callable[[Any], AbstractContextManager[None]],
) -> Callable[[Any], AbstractContextManager[None]]:
    @wraps(original)
    @contextmanager
    def capture_signals(self: Any) -> Generator[None, None, None]:
        with original(self):
            yield
            if signal.SIGTERM in getattr(self, "_captured_signals", ()):
                _stop()

    replacement: Any = capture_signals
    replacement.__wrapped__ = original
    return capture_signals
