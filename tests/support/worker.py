"""A real Celery worker in a subprocess, and a client for it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import psutil
from celery import Celery

from .processes import REPOSITORY, clean_environ, stop, wait_for

APP = "tests.support.tasks"
READY = "ready."


class Worker:
    """`celery -A <app> worker` as a user would start it. Use it as a context manager."""

    def __init__(
        self,
        broker: str,
        folder: Path,
        *,
        app: str = APP,
        options: Sequence[str] = ("--concurrency", "1"),
        launcher: Sequence[str] = (),
        python: str = sys.executable,
        cwd: Path = REPOSITORY,
        **environ: str,
    ) -> None:
        """`environ` is added to a clean environment; TASKWATT_ENABLED=1 and a TASKWATT_DIR below `folder` are given.

        `launcher`: what the command is put behind, such as opentelemetry-instrument.
        """
        self.directory = folder / "taskwatt"
        self.log_path = folder / "worker.log"
        self.broker = broker
        given = {"TASKWATT_ENABLED": "1", "TASKWATT_DIR": str(self.directory), "TEST_BROKER": broker}
        self.environ = clean_environ(**{**given, **environ})
        self._command = [*launcher, python, "-m", "celery", "-A", app, "worker", "-l", "INFO", *options]
        self._cwd = cwd
        self.app = Celery(broker=broker)
        self.app.conf.task_ignore_result = True
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            for child in self.children:
                child.resume()
            stop(self._process)
        self.app.close()

    def start(self) -> None:
        """Start, and wait until it consumes."""
        before = self.log.count(READY)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._cwd, env=self.environ, stdout=log, stderr=subprocess.STDOUT
            )
        wait_for(lambda: self.log.count(READY) > before or not self.alive, 60, "the worker")
        assert self.alive, self.log

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []

    @property
    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    @property
    def warnings(self) -> list[str]:
        """What the agent said in the log from WARNING up, a line each."""
        return [line for line in self.log.splitlines() if "taskwatt" in line and ("WARNING" in line or "ERROR" in line)]

    def send(self, task: str, *args: Any, **options: Any) -> str:
        """Publish one task of the app from this process, which is not watched; its id. `options` as for send_task."""
        kwargs = options.pop("kwargs", {})
        return str(self.app.send_task(f"tests.{task}", args, kwargs, **options).id)

    def publish(self, *messages: tuple[str, list[Any], dict[str, Any]], **environ: str) -> list[str]:
        """Publish from an instrumented program with the worker's environment (and `environ`); the ids.

        A message: task, args, options as for send_task.
        """
        command = [sys.executable, "-m", "tests.support.producer", json.dumps(messages)]
        done = subprocess.run(
            command, cwd=self._cwd, env=self.environ | environ, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM, patience_s: float = 60.0) -> int:
        """Send a signal and wait; the exit code.

        It may take half a minute: so long does Celery let a pool child wait that believes its last result unread.
        """
        self.send_signal(number)
        return self.process.wait(patience_s)

    def triage(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "taskwatt", "triage", "--dir", str(self.directory), *options]
        return subprocess.run(command, env=clean_environ(), capture_output=True, text=True, check=False)

    def document(self) -> dict[str, Any]:
        """The triage document; AssertionError with what was said when there is none."""
        done = self.triage("--json")
        assert done.stdout, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found
