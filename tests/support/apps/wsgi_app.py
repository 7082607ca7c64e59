"""A WSGI application of no framework: routes of its own, which nobody tells us."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tests.support.apps import told, work


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path: str = environ["PATH_INFO"]
    if path == "/raises":
        raise ValueError("as it was")
    if path == "/unavailable":
        start_response("503 Service Unavailable", [])
        return [b""]
    if path == "/rows":
        start_response("200 OK", [])
        return [json.dumps(told()).encode()]
    name, half = f"{environ['REQUEST_METHOD']} (no route)", int(path[1:]) / 2
    work(name, half)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return _stream(name, half)


def _stream(name: str, milliseconds: float) -> Iterator[bytes]:
    yield b"piece"
    work(name, milliseconds)
    yield b"piece"
