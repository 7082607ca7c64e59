"""Tasks that write down, in a file and as the very last thing, that they finished: the truth that nobody reports.

One line an event, appended with one write, so that it is there when the process is killed right after it.
TEST_CONSTANTS sets module constants before the worker starts (`taskwatt.journal.MAX_BYTES=32768 ...`): bounds that
would take an hour to reach, and a patience that would take a minute to run out.
"""

from __future__ import annotations

import importlib
import os
import signal
import time
from typing import Any

from opentelemetry import trace

from tests.support.tasks import app, burn_for

for _assignment in os.environ.get("TEST_CONSTANTS", "").split():
    _name, _value = _assignment.split("=")
    _module, _constant = _name.rsplit(".", 1)
    setattr(importlib.import_module(_module), _constant, float(_value) if "." in _value else int(_value))


def _write_down(word: str, request: Any) -> None:
    line = f"{word} {request.id} {request.retries + 1} {os.getpid()}\n"
    descriptor = os.open(os.environ["TEST_TRUTH"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, line.encode())
    os.close(descriptor)


@app.task(name="tests.finish", bind=True)
def finish(self: Any, sleep_s: float = 0.0, burn_s: float = 0.0) -> None:
    _write_down("began", self.request)
    burn_for(burn_s)
    time.sleep(sleep_s)
    _write_down("finished", self.request)


@app.task(name="tests.finish_retried", bind=True, max_retries=None)
def finish_retried(self: Any, times: int) -> None:
    """Is retried at once so many times; each attempt is finished."""
    _write_down("began", self.request)
    if self.request.retries < times:
        _write_down("finished", self.request)
        raise self.retry(countdown=0)
    _write_down("finished", self.request)


@app.task(name="tests.finish_and_exit", bind=True)
def finish_and_exit(self: Any) -> None:
    """Takes its process with it, without a goodbye."""
    _write_down("began", self.request)
    _write_down("finished", self.request)
    os._exit(3)


@app.task(name="tests.outlive", bind=True, time_limit=1)
def outlive(self: Any) -> None:
    """Runs into its hard time limit."""
    _write_down("began", self.request)
    time.sleep(60)


@app.task(name="tests.finish_spitefully", bind=True)
def finish_spitefully(self: Any) -> None:
    """Sets on its span what no encoding of OTLP can hold."""
    _write_down("began", self.request)
    span = trace.get_current_span()
    span.set_attribute("text", "half a character: \ud800")
    span.set_attribute("number", 1 << 70)
    span.update_name("run/\ud800")
    _write_down("finished", self.request)
    raise ValueError("\ud800")


@app.task(name="tests.finish_and_kill", bind=True)
def finish_and_kill(self: Any) -> None:
    _write_down("began", self.request)
    _write_down("finished", self.request)
    os.kill(os.getpid(), signal.SIGKILL)
