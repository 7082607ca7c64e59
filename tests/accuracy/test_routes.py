"""CPU per route of a FastAPI application, within 3 % of what each route recorded, async or in worker threads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any

import pytest

from tests.accuracy.conftest import Carrier
from tests.support.processes import REPOSITORY, stop

pytestmark = pytest.mark.alone

BOUND = 0.03
ROUNDS = 4
PATHS = ("/a/1", "/b/2", "/c", "/sync/a/3", "/sync/b/4", "/sync/c")


@contextmanager
def served(carrier: Carrier, loop: str) -> Iterator[int]:
    command = [sys.executable, "-m", "tests.accuracy.routes", loop]
    server = subprocess.Popen(command, cwd=REPOSITORY, env=carrier.environ, stdout=subprocess.PIPE)
    assert server.stdout is not None
    try:
        yield int(server.stdout.readline())
    finally:
        stop(server)
        server.stdout.close()


def get(connection: HTTPConnection, path: str) -> Any:
    connection.request("GET", path)
    with connection.getresponse() as response:
        body = response.read()
        assert response.status == 200, (path, body)
    return json.loads(body)


def ask_all(port: int, first: int) -> None:
    """Every path ROUNDS times over one connection; several begin at different ones."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(ROUNDS):
        for path in PATHS[first:] + PATHS[:first]:
            get(connection, path)
    connection.close()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_every_route_is_billed_what_it_recorded(carrier: Carrier, loop: str) -> None:
    with served(carrier, loop) as port:
        with ThreadPoolExecutor(3) as clients:
            list(clients.map(lambda first: ask_all(port, first), (0, 2, 4)))
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        found = get(connection, "/figures")
        connection.close()
    off = {name: found["rows"].get(name, 0.0) / seconds - 1 for name, seconds in found["recorded"].items()}
    assert len(off) == len(PATHS)
    assert {name: f"{value:+.2%}" for name, value in off.items() if abs(value) > BOUND} == {}
