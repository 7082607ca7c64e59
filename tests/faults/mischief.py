"""The faults that strike from outside: a dependency that goes down, neighbours that burn, a quota."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

CGROUP_V1 = Path("/sys/fs/cgroup/cpu")
CGROUP_V2 = Path("/sys/fs/cgroup")
PERIOD_US = 100_000


class Nothing:
    """The fault is in the code or in the load."""

    @property
    def pids(self) -> list[int]:
        return []

    def strike(self) -> None:
        """Nothing happens."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to clean up."""


class Dependency(Nothing):
    """A server that tasks connect to. At the onset it goes down: connections are refused from then on."""

    port = 0

    def __enter__(self) -> Self:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def strike(self) -> None:
        with suppress(OSError):  # down already
            self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._server.close()

    def __exit__(self, *_: object) -> None:
        self.strike()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                self._server.accept()[0].close()


class Neighbours(Nothing):
    """Processes that are not ours and burn from the onset on."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def strike(self) -> None:
        for _ in range(self._count):
            self._processes.append(subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]))

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


class Quota(Nothing):
    """A control group that grants so many CPUs; None grants all. Needs root. `python` starts programs inside it."""

    python = ""

    def __init__(self, cpus: float | None) -> None:
        self._cpus = cpus

    @staticmethod
    def unavailable() -> str:
        for root in (CGROUP_V1, CGROUP_V2):
            if (root / "cpu.cfs_quota_us").exists() or (root / "cgroup.subtree_control").exists():
                return "" if os.access(root, os.W_OK) else "setting a CPU quota needs a writable cgroup (root)"
        return "this machine has no cgroup CPU controller"

    def __enter__(self) -> Self:
        first = (CGROUP_V1 / "cpu.cfs_quota_us").exists()
        self._group = (CGROUP_V1 if first else CGROUP_V2) / f"taskwatt-faults-{os.getpid()}"
        self._group.mkdir()
        quota = -1 if self._cpus is None else int(self._cpus * PERIOD_US)
        if first:
            (self._group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self._group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (self._group / "cpu.max").write_text(f"{'max' if quota < 0 else quota} {PERIOD_US}")
        return self

    def wrapper(self, folder: Path) -> str:
        """A program that is Python, but inside the group."""
        script = folder / "python"
        script.write_text(f'#!/bin/sh\necho $$ > {self._group}/cgroup.procs\nexec {sys.executable} "$@"\n')
        script.chmod(0o700)
        return str(script)

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # a straggler keeps an empty group; it costs nothing
            self._group.rmdir()
