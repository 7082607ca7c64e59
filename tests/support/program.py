"""Any Python program in a subprocess, switched on by the environment alone, as a user would start it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self
from urllib.error import URLError
from urllib.request import urlopen

from .processes import REPOSITORY, clean_environ, stop, wait_for


class Program:
    """`python <arguments>`, with TASKWATT_ENABLED=1 and `environ`. Use it as a context manager."""

    def __init__(self, folder: Path, *arguments: str, python: str = sys.executable, **environ: str) -> None:
        """What it writes and its TASKWATT_DIR are below `folder`."""
        self.directory = folder / "taskwatt"
        self._output = folder / "output.log"
        self._command = [python, *arguments]
        given = {"TASKWATT_ENABLED": "1", "TASKWATT_DIR": str(self.directory)}
        self.environ = clean_environ(**{**given, **environ})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, cwd=REPOSITORY, env=self.environ, stdout=output, stderr=subprocess.STDOUT
            )
        return self

    def __exit__(self, *_: object) -> None:
        stop(self.process)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def output(self) -> str:
        """Everything it has written, to either stream."""
        return self._output.read_text() if self._output.exists() else ""

    @property
    def agents(self) -> list[Path]:
        """Directories of the agents that live, and of those that could not clear up."""
        return sorted((self.directory / "agents").glob("*"))

    def wait(self, seconds: float = 60.0) -> int:
        """Its exit code, once it has ended by itself."""
        return self.process.wait(seconds)

    def end(self, number: signal.Signals = signal.SIGTERM, seconds: float = 30.0) -> int:
        """Send a signal and wait; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def serves(self, url: str) -> None:
        """Wait until it answers there."""
        wait_for(lambda: self.process.poll() is not None or answers(url), 60, f"an answer of {url}")
        assert self.process.poll() is None, self.output

    def triage(self, *options: str) -> str:
        """What `taskwatt triage` prints."""
        command = [sys.executable, "-m", "taskwatt", "triage", "--dir", str(self.directory), *options]
        done = subprocess.run(command, env=clean_environ(), capture_output=True, text=True, check=False)
        return done.stdout

    def document(self) -> dict[str, Any]:
        """The triage document; empty while there is none."""
        found: dict[str, Any] = json.loads(self.triage("--json") or "{}")
        return found


def answers(url: str) -> bool:
    """Is the answer to a GET a good one?"""
    try:
        with urlopen(url, timeout=10) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False
