"""A real web server in a process of its own, and clients for it."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from .processes import REPOSITORY, clean_environ, free_port, stop, wait_for

UVICORN = ("-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--no-access-log")
HYPERCORN = ("-m", "hypercorn", "--bind", "127.0.0.1:{port}")
GUNICORN = ("-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--no-control-socket")


class Server:
    """Use it as a context manager. `{port}` in the command is a free one."""

    def __init__(self, folder: Path, command: Sequence[str], **environ: str) -> None:
        self.port = free_port()
        self.log_path = folder / "server.log"
        self._command = [sys.executable, *(word.format(port=self.port) for word in command)]
        given = {"TASKWATT_ENABLED": "1", "TASKWATT_DIR": str(folder / "taskwatt"), "PYTHONWARNINGS": "default"}
        self._environ = clean_environ(**{**given, **environ})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=REPOSITORY, env=self._environ, stdout=log, stderr=subprocess.STDOUT
            )
        wait_for(lambda: self._listens() or self.process.poll() is not None, 60, "the server")
        assert self.process.poll() is None, self.log
        return self

    def __exit__(self, *_: object) -> None:
        stop(self.process)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def ask(self, *paths: str, method: str = "GET") -> list[int]:
        """Statuses of requests over one connection, one after another, each read to its end."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            statuses: list[int] = []
            for path in paths:
                connection.request(method, path)
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)
            return statuses
        finally:
            connection.close()

    def hang_up(self, path: str) -> None:
        """Ask, wait for the first bytes, and be gone."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
            assert connection.recv(1)

    def told(self) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", "/rows")
            told: dict[str, Any] = json.loads(connection.getresponse().read())
            return told
        finally:
            connection.close()

    def rows(self) -> dict[tuple[str, str], int]:
        """Number of requests by name and outcome, without those that ask for rows."""
        return {(name, outcome): number for name, outcome, number, _ in self.told()["rows"] if name != "GET /rows"}

    def wait_for_rows(self, expected: dict[tuple[str, str], int]) -> None:
        """What goes on after the answer (a background task, a client that is gone) may take a moment."""
        try:
            wait_for(lambda: self.rows() == expected)
        except AssertionError:
            assert self.rows() == expected, self.log

    def figures(self) -> tuple[dict[str, float], dict[str, float]]:
        """(billed, true) CPU seconds by row, of rows of which there is a truth, when no request is open but
        the one that asks."""
        wait_for(lambda: sum(number for _, outcome, number, _ in self.told()["rows"] if outcome == "pending") == 1)
        told = self.told()
        billed = dict.fromkeys(told["truth"], 0.0)
        for name, _, _, cpu_s in told["rows"]:
            if name in billed:
                billed[name] += cpu_s
        return billed, told["truth"]

    def serve_and_compare(self, serve: Callable[[int], object]) -> tuple[dict[str, float], dict[str, float]]:
        """(billed, true) CPU seconds of what `serve(milliseconds)` asks for, by row; asked up to thrice.

        A collection of the whole heap in the middle of a request is that request's, and nothing that it asked for.
        """
        serve(0)
        for _ in range(2):
            billed, truth = self._compare(serve)
            if all(abs(billed[name] - cpu_s) < 0.03 * cpu_s for name, cpu_s in truth.items()):
                return billed, truth
        return self._compare(serve)

    def _compare(self, serve: Callable[[int], object]) -> tuple[dict[str, float], dict[str, float]]:
        """A framework's own share of each request is known from asking for nothing to burn, and taken off.

        The first time of all it is another.
        """
        began, _ = self.figures()
        serve(0)
        empty, truth_before = self.figures()
        serve(80)
        billed, truth = self.figures()
        return (
            {name: cpu_s - 2 * empty[name] + began[name] for name, cpu_s in billed.items()},
            {name: cpu_s - truth_before[name] for name, cpu_s in truth.items()},
        )

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
