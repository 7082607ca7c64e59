"""Programs with an event loop, written from a seed, and the process that runs one.

The bug, or its fixed twin, begins when the program is struck with a signal: until then only the background runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.faults.case import Arrival, Subject
from tests.faults.celery_app import BURNER, Names
from tests.faults.mischief import Nothing
from tests.support.brokers import RedisServer
from tests.support.processes import clean_environ, stop, wait_for

MODULE = "seeded_loop"

PRELUDE = '''\
"""Written by the fault suite from {origin}."""

import asyncio
import hashlib
import json
import os
import random
import signal
import socket
import threading
import time

DICE = random.Random({origin!r})
'''

MAIN = """

async def {background}():
    while True:
        await asyncio.sleep(DICE.uniform(0.1, 0.3))
        {burn}({background_s!r})


async def main():
    struck = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, struck.set)
    background = asyncio.create_task({background}())
    open("ready", "w").close()
    await struck.wait()
    await asyncio.create_task({entry}())
    await background
"""


@dataclass
class LoopProgram:
    """What to run: given a folder, a Subject. `fault` strikes it at the onset."""

    origin: str
    names: Names
    source: str
    """Defines `entry`, a coroutine function, and uses `burn`."""
    entry: str
    burn: str
    background_s: float = 0.003
    redis: bool = False
    """Does it need a Redis server? Its port is in the variable FAULTS_REDIS."""
    fault: Strike = field(init=False)

    def __post_init__(self) -> None:
        self.fault = Strike()

    def __call__(self, folder: Path) -> Subject:
        names = {"background": self.names.function(), "burn": self.burn, "entry": self.entry}
        text = (
            PRELUDE.format(origin=self.origin)
            + BURNER.format(function=self.burn)
            + self.source
            + MAIN.format(background_s=self.background_s, **names)
        )
        (folder / f"{MODULE}.py").write_text(text)
        return _Running(self, folder)


class Strike(Nothing):
    """Sends the signal."""

    pid = 0

    def strike(self) -> None:
        os.kill(self.pid, signal.SIGUSR1)


class _Running:
    def __init__(self, plan: LoopProgram, folder: Path) -> None:
        self._plan, self._folder = plan, folder
        self.notes = folder / "notes"
        self.directory = folder / "taskwatt"
        self.servers: list[int] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        environ: dict[str, str] = {}
        if self._plan.redis:
            server = RedisServer(self._folder)
            server.start()
            self._stack.callback(server.stop)
            self._stack.callback(server.client.close)
            environ["FAULTS_REDIS"] = str(server.port)
            self.servers.append(server.pid)
        self._log = self._stack.enter_context((self._folder / "log").open("ab"))
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import asyncio, {MODULE}; asyncio.run({MODULE}.main())"],
            cwd=self._folder,
            env=clean_environ(
                TASKWATT_ENABLED="1", TASKWATT_DIR=str(self.directory), PYTHONPATH=str(self._folder), **environ
            ),
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._stack.callback(stop, self._process)
        try:
            wait_for(lambda: (self._folder / "ready").exists() or self._process.poll() is not None, 60, "the program")
            assert self._process.poll() is None, (self._folder / "log").read_text()
        except BaseException:
            self._stack.close()
            raise
        self._plan.fault.pid = self._process.pid
        return self

    def __exit__(self, *_: object) -> None:
        ended = self._process.poll()
        self._stack.close()
        assert ended is None, f"the program ended with {ended}: {(self._folder / 'log').read_text()}"

    @property
    def pids(self) -> list[int]:
        return [self._process.pid]

    def offer(self, arrival: Arrival) -> None:
        raise NotImplementedError("a program with a loop brings its own load")
