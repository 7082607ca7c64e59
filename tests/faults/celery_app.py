"""Celery applications written from a seed, and the worker that runs one.

The source is generated, because names are part of what a seed decides: those of tasks and queue, and those of the
functions that burn, which the agent has to name.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.faults.case import Arrival, Subject
from tests.support.brokers import RedisServer
from tests.support.worker import Worker

MODULE = "seeded_app"

PRELUDE = '''\
"""Written by the fault suite from {origin}."""

import json
import os
import socket
import time

from celery import Celery

app = Celery({app!r}, broker=os.environ["TEST_BROKER"])
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True, task_default_queue={queue!r})
NOTES = os.open(os.environ["FAULTS_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(task, number, end):
    os.write(NOTES, f"{{time.time_ns()}} {{task.name}} {{number}} {{task.request.retries}} {{end}}\\n".encode())
'''

BURNER = """

def {function}(seconds):
    end = time.thread_time_ns() + int(seconds * 1e9)
    while time.thread_time_ns() < end:
        pass
"""

_SERVICES = ("billing", "catalogue", "crm", "feeds", "ledger", "mailing", "orders", "search", "shipping", "stock")
_VERBS = ("apply", "build", "check", "collect", "fetch", "merge", "price", "push", "rank", "refresh", "score", "sync")
_NOUNS = (
    "account",
    "basket",
    "batch",
    "contract",
    "customer",
    "index",
    "invoice",
    "offer",
    "parcel",
    "report",
    "tariff",
)


class Names:
    """Names for one application, none twice."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._taken: set[str] = set()
        self.app = rng.choice(_SERVICES)
        self.queue = f"{rng.choice(_NOUNS)}-{rng.randrange(100)}"

    def function(self) -> str:
        while True:
            name = f"{self._rng.choice(_VERBS)}_{self._rng.choice(_NOUNS)}"
            if name not in self._taken:
                self._taken.add(name)
                return name

    def task(self) -> str:
        return f"{self.app}.{self.function()}"


@dataclass(frozen=True)
class Task:
    name: str
    function: str
    """The one that burns."""
    source: str

    @property
    def entry(self) -> str:
        return self.name.rpartition(".")[2]


def write_task(names: Names, body: str, options: str = "", **values: Any) -> Task:
    """A task with a burning function of its own.

    `body`: lines, unindented, with {burn}, {name}, {entry} and `values` filled in; `number` and `task` are its names.
    """
    name, function = names.task(), names.function()
    entry = name.rpartition(".")[2]
    filled = body.strip("\n").format(burn=function, name=name, entry=entry, **values)
    lines = "\n".join(f"    {line}" if line else "" for line in filled.splitlines())
    decorator = f"@app.task(name={name!r}, bind=True{', ' + options if options else ''})"
    source = f"{BURNER.format(function=function)}\n\n{decorator}\ndef {entry}(task, number):\n{lines}\n"
    return Task(name, function, source)


def healthy(names: Names, burn_s: float) -> Task:
    return write_task(names, '{burn}({burn_s!r})\nnote(task, number, "ok")', burn_s=burn_s)


@dataclass(frozen=True)
class CeleryWorker:
    """How to start a worker on an application: given a folder, a Subject."""

    origin: str
    names: Names
    tasks: tuple[Task, ...]
    concurrency: int
    environ: Callable[[], dict[str, str]] = dict
    """Asked when it starts: a port is not known before."""
    python: Callable[[Path], str] | None = None
    """A stand-in for the interpreter, put into that folder."""

    def __call__(self, folder: Path) -> Subject:
        prelude = PRELUDE.format(origin=self.origin, app=self.names.app, queue=self.names.queue)
        (folder / f"{MODULE}.py").write_text(prelude + "".join(task.source for task in self.tasks))
        return _Running(self, folder)


class _Running:
    def __init__(self, plan: CeleryWorker, folder: Path) -> None:
        self._plan, self._folder = plan, folder
        self._broker = RedisServer(folder)
        self.notes = folder / "notes"
        self.directory = folder / "taskwatt"

    def __enter__(self) -> Self:
        self._broker.start()
        options: dict[str, Any] = {"python": self._plan.python(self._folder)} if self._plan.python else {}
        self._worker = Worker(
            self._broker.url,
            self._folder,
            app=MODULE,
            options=("--concurrency", str(self._plan.concurrency)),
            cwd=self._folder,
            FAULTS_NOTES=str(self.notes),
            **options,
            **self._plan.environ(),
        )
        try:
            self._worker.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._worker.__exit__()
        finally:
            self._broker.client.close()
            self._broker.stop()

    @property
    def pids(self) -> list[int]:
        return [self._worker.pid, *(child.pid for child in self._worker.children)]

    @property
    def servers(self) -> list[int]:
        return [self._broker.pid]

    def offer(self, arrival: Arrival) -> None:
        self._worker.app.send_task(arrival.task, arrival.args, queue=self._plan.names.queue)
