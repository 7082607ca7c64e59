"""Tasks that write down what they used, by a clock of their own, into a file of their process in $TRUTH_DIR.

What is noted is the calling thread's CPU clock around the work itself: not the agent's clocks, nor its edges of an
attempt. One line a figure: task, outcome, activity, seconds. Automatic garbage collection is off while a figure is
taken, so that `json` is only JSON and `gc` only the collection that was asked for.
"""

from __future__ import annotations

import base64
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from celery.exceptions import Ignore
from kombu.serialization import loads

from tests.ledger.payloads import payload

app = Celery("ledger", broker=os.environ.get("TEST_BROKER", "memory://"))
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)

_RECORDS = [{"id": i, "price": i * 1.1, "name": f"item {i}", "tags": ["a", "b"]} for i in range(3000)]


_files: dict[int, int] = {}


def note(task: str, outcome: str, activity: str, seconds: float) -> None:
    pid = os.getpid()
    if pid not in _files:
        path = os.path.join(os.environ["TRUTH_DIR"], f"{pid}.txt")
        _files[pid] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(_files[pid], f"tests.{task} {outcome} {activity} {seconds:.9f}\n".encode())


@contextmanager
def noted(task: str, activity: str = "business", outcome: str = "useful") -> Iterator[None]:
    """Note the CPU of this thread in the block, and that a collection cannot have been in it by accident."""
    was_on = gc.isenabled()
    gc.disable()
    started = time.thread_time()
    try:
        yield
    finally:
        used = time.thread_time() - started
        if was_on:
            gc.enable()
        note(task, outcome, activity, used)


def burn_for(seconds: float) -> None:
    end = time.thread_time_ns() + int(seconds * 1e9)
    while time.thread_time_ns() < end:
        pass


@app.task(name="tests.burn")
def burn(seconds: float) -> None:
    with noted("burn"):
        burn_for(seconds)


@app.task(name="tests.sleep")
def sleep(seconds: float) -> None:
    with noted("sleep"):
        time.sleep(seconds)


@app.task(name="tests.encode")
def encode() -> None:
    """About 6 ms of JSON, 2 ms of something else, and what it takes to forget the result."""
    gc.disable()
    try:
        with noted("encode", "serialization"):
            decoded = json.loads(json.dumps(_RECORDS))
        with noted("encode"):
            burn_for(0.002)
            del decoded
    finally:
        gc.enable()


@app.task(name="tests.collect")
def collect(cycles: int) -> None:
    """Leave so many cycles behind, and have them collected."""
    with noted("collect"):
        for _ in range(cycles):
            one: list[Any] = []
            one.append(one)
    with noted("collect", "gc"):
        gc.collect()


@app.task(name="tests.retry", bind=True, max_retries=None)
def retry(self: Any, times: int, seconds: float) -> None:
    again = self.request.retries < times
    with noted("retry", outcome="retried" if again else "useful"):
        burn_for(seconds)
    if again:
        raise self.retry(countdown=0)


@app.task(name="tests.fail")
def fail(seconds: float) -> None:
    with noted("fail", outcome="failed"):
        burn_for(seconds)
    raise ValueError("meant to fail")


@app.task(name="tests.ignore")
def ignore(seconds: float) -> None:
    with noted("ignore"):
        burn_for(seconds)
    raise Ignore


@app.task(name="tests.kill_itself")
def kill_itself(seconds: float) -> None:
    with noted("kill_itself", outcome="cancelled"):
        burn_for(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="tests.burn_in_threads")
def burn_in_threads(seconds: float, threads: int) -> None:
    """Each thread notes what it burned; all are joined."""

    def work() -> None:
        started = time.thread_time()
        burn_for(seconds)
        note("burn_in_threads", "useful", "business", time.thread_time() - started)

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


@app.task(name="tests.burn_in_subprocess")
def burn_in_subprocess(seconds: float) -> None:
    """Notes what the kernel says of the subprocess that was reaped: its interpreter's start included."""
    code = f"import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass"
    started = subprocess.Popen([sys.executable, "-I", "-S", "-c", code])
    _, status, usage = os.wait4(started.pid, 0)
    started.returncode = os.waitstatus_to_exitcode(status)
    note("burn_in_subprocess", "useful", "business", usage.ru_utime + usage.ru_stime)


@app.task(name="tests.leave_a_thread")
def leave_a_thread(seconds: float) -> None:
    """The thread burns long after this attempt has ended; by the ledger's rule that belongs to no attempt."""

    def work() -> None:
        started = time.thread_time()
        burn_for(seconds)
        note("leave_a_thread", "none", "framework", time.thread_time() - started)

    threading.Thread(target=work, daemon=True).start()


@app.task(name="tests.weigh")
def weigh(entries: int) -> None:
    """What (de)serializing one message of `payload(entries)` takes, by the calls that the worker makes for it.

    In the main process kombu's Redis transport decodes the envelope and encodes it again into `unacked`, and Celery
    decodes the body to see which protocol it speaks; the child decodes the body once more.
    """
    gc.disable()
    try:
        body = json.dumps([[payload(entries)], {}, {"callbacks": None}])
        envelope = json.dumps({"body": base64.b64encode(body.encode()).decode(), "headers": {}, "properties": {}})
        with noted("weigh", "serialization"):
            json.dumps([json.loads(envelope), "", "celery"])
            decoded = [loads(body, "application/json", "utf-8", accept={"application/json"}) for _ in ("main", "child")]
        del decoded
    finally:
        gc.enable()


@app.task(name="tests.length")
def length(entries: list[Any]) -> int:
    return len(entries)
