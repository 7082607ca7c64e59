"""One process per variant with the same event loop and the same work, side by side, each measured from outside."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Self

import psutil

from benchmarks import peers
from benchmarks.fleet import other_threads
from taskwatt import clocks
from tests.support.processes import REPOSITORY, clean_environ, stop

PLAIN, SDK, PYTHON, ACCELERATED = "plain", "sdk", "taskwatt-python", "taskwatt-c"
OURS = (PYTHON, ACCELERATED)
VARIANTS = (PLAIN, PYTHON, ACCELERATED, *peers.PACKAGES)
CONNECTIONS = 32
STARTED_S = 3.0
"""By then an agent, which starts a second after its loop, has imported what it needs."""

_GET = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
_LINE = b"x" * 100 + b"\n"


class Used(NamedTuple):
    """CPU seconds of one process: of its first thread, and of all others (the agent's, an exporter's)."""

    first: float
    threads: float


def reason_missing(variant: str) -> str:
    """Why this variant cannot be measured here; empty when it can."""
    if variant == ACCELERATED and find_spec("taskwatt_fast") is None:
        return "the accelerator is not built"
    return peers.reason_missing(variant) if variant in peers.PACKAGES else ""


class Subject:
    """A process that does `workload` on `loop` (asyncio or uvloop), watched by `variant`."""

    def __init__(self, variant: str, workload: str, loop: str, endpoint: str, folder: Path) -> None:
        self.variant = variant
        self._log = (folder / f"{variant}.log").open("wb+")
        peer = variant in peers.PACKAGES
        self._process = subprocess.Popen(
            [str(peers.PYTHON) if peer else sys.executable, "-m", "benchmarks.asyncio_subject", workload, loop],
            cwd=REPOSITORY,
            env=_environ(variant, endpoint, folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self._workload = workload
        self._sockets: list[socket.socket] = []
        self._answer = 0

    def wait_until_ready(self) -> None:
        port = self._said()
        for _ in range(CONNECTIONS if port else 0):
            connection = socket.create_connection(("127.0.0.1", port), timeout=60.0)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(connection)
        if port:
            self._answer = self._length_of_answer(self._sockets[0])

    def do(self, units: int, at_a_time: int = CONNECTIONS) -> None:
        """So many steps, or requests of which `at_a_time` wait together.

        The server is held while they are sent: otherwise it would be a matter of both processes' speed, and of luck,
        how many an iteration of its loop finds ready, and a slower server would look cheaper for finding more.
        """
        if not self._sockets:
            assert self._process.stdin is not None
            self._process.stdin.write(b"%d\n" % units)
            self._process.stdin.flush()
            self._said()
            return
        asked, connections = self._asked, self._sockets[:at_a_time]
        for _ in range(units // at_a_time):
            if at_a_time > 1:
                self._process.send_signal(signal.SIGSTOP)
            for connection in connections:
                connection.sendall(asked)
            if at_a_time > 1:
                self._process.send_signal(signal.SIGCONT)
            for connection in connections:
                self._take(connection, self._answer)

    def used(self) -> Used:
        others = other_threads(self._process.pid)
        return Used((clocks.process_cpu(self._process.pid) or 0.0) - others, others)

    def window(self, units: int, at_a_time: int = CONNECTIONS) -> Used:
        """CPU per unit."""
        before = self.used()
        self.do(units, at_a_time)
        after = self.used()
        return Used((after.first - before.first) / units, (after.threads - before.threads) / units)

    def memory(self) -> float:
        """Megabytes, shared pages split among their users (PSS)."""
        return float(psutil.Process(self._process.pid).memory_full_info().pss) / 1e6

    def stop(self) -> None:
        for connection in self._sockets:
            connection.close()
        stop(self._process)
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()

    @property
    def _asked(self) -> bytes:
        return _LINE if self._workload == "echo" else _GET

    def _said(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"{self.variant} ended: {self._log.read().decode()[-2000:]}")
        return int(line)

    def _length_of_answer(self, connection: socket.socket) -> int:
        """In bytes; every later answer is as long."""
        connection.sendall(self._asked)
        taken = b""
        while self._workload == "echo" and not taken.endswith(b"\n"):
            taken += connection.recv(65536)
        while self._workload != "echo" and b"\r\n\r\n" not in taken:
            taken += connection.recv(65536)
        if self._workload == "echo":
            return len(taken)
        head, _, body = taken.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        expected = int(sizes[0].split(b":")[1])
        self._take(connection, expected - len(body))
        return len(head) + 4 + expected

    @staticmethod
    def _take(connection: socket.socket, size: int) -> None:
        while size:
            taken = len(connection.recv(65536))
            assert taken, "the server closed the connection"
            size -= taken

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _environ(variant: str, endpoint: str, folder: Path) -> dict[str, str]:
    """What a user of this variant sets, and what makes two processes of one program alike.

    That is a fixed hash, and memory that is not given back: asyncio reads into 256 KiB at a time, and whether each
    such piece is asked of the kernel anew depends on what happens to lie behind it; it is half of an echoed line.
    """
    given = {"PYTHONHASHSEED": "0"} | dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str(1 << 28))
    if variant in OURS:
        given |= {"TASKWATT_ENABLED": "1", "TASKWATT_DIR": str(folder / "taskwatt")}
        given["TASKWATT_ACCELERATOR"] = "0" if variant == PYTHON else "auto"
    elif variant != PLAIN:
        given |= {"BENCH_PEER": variant, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    if variant == "ddtrace":  # its uploads go to a receiver that takes anything; nothing else leaves
        given |= {
            "DD_TRACE_AGENT_URL": endpoint,
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "0",
            "DD_REMOTE_CONFIGURATION_ENABLED": "0",
            "DD_CRASHTRACKING_ENABLED": "0",
        }
    return clean_environ(**given)


@contextmanager
def subjects(variants: Sequence[str], workload: str, loop: str, endpoint: str, folder: Path) -> Iterator[list[Subject]]:
    """One started process for each variant."""
    with ExitStack() as stack:
        started = [stack.enter_context(Subject(variant, workload, loop, endpoint, folder)) for variant in variants]
        for subject in started:
            subject.wait_until_ready()
        time.sleep(STARTED_S)
        yield started
