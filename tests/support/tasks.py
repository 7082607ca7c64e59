"""The application that workers under test run: tasks whose end and whose CPU are known beforehand."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject

app = Celery("tests", broker=os.environ.get("TEST_BROKER", "memory://"))
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True, worker_hijack_root_logger=True)


def burn_for(seconds: float) -> None:
    """Use so much CPU on this thread; overshoots by microseconds."""
    end = time.thread_time_ns() + int(seconds * 1e9)
    while time.thread_time_ns() < end:
        pass


@app.task(name="tests.noop")
def noop(*_: Any) -> None:
    """Nothing."""


@app.task(name="tests.burn")
def burn(seconds: float) -> None:
    burn_for(seconds)


def has_words_only(text: str) -> bool:
    return re.match(r"^(\w+\s?)*$", text) is not None


@app.task(name="tests.match")
def match(length: int) -> bool:
    """One call in C that keeps the interpreter; its CPU doubles with each character, 0.1 s are some 20."""
    return has_words_only("a" * length + "!")


@app.task(name="tests.encode")
def encode(entries: int, burn_s: float = 0.0) -> int:
    """JSON of `entries` records, there and back."""
    burn_for(burn_s)
    return len(json.loads(json.dumps([{"id": i, "price": i * 1.1, "tags": ["a", "b"]} for i in range(entries)])))


@app.task(name="tests.sleep")
def sleep(seconds: float) -> None:
    time.sleep(seconds)


@app.task(name="tests.length")
def length(text: Any) -> int:
    return len(text)


@app.task(name="tests.retry", bind=True, max_retries=None)
def retry(self: Any, times: int, countdown: float = 0.0, burn_s: float = 0.0) -> None:
    """Is retried `times` times and then succeeds."""
    burn_for(burn_s)
    if self.request.retries < times:
        raise self.retry(countdown=countdown)


@app.task(name="tests.fail")
def fail(burn_s: float = 0.0) -> None:
    burn_for(burn_s)
    raise ValueError("meant to fail")


@app.task(name="tests.ignore")
def ignore() -> None:
    raise Ignore


@app.task(name="tests.reject")
def reject() -> None:
    raise Reject("meant to be rejected", requeue=False)


@app.task(name="tests.hang", time_limit=1)
def hang(burn_s: float = 0.0) -> None:
    """Burns and then outlives its hard time limit."""
    burn_for(burn_s)
    time.sleep(60)


@app.task(name="tests.kill_itself")
def kill_itself(burn_s: float = 0.0) -> None:
    burn_for(burn_s)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="tests.kill_itself_anew", acks_late=True, reject_on_worker_lost=True)
def kill_itself_anew() -> None:
    """Its message comes back."""
    burn_for(0.05)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="tests.kill_itself_once", bind=True, acks_late=True, reject_on_worker_lost=True)
def kill_itself_once(self: Any) -> None:
    """Its message comes back, and is worked on then."""
    burn_for(0.05)
    if not self.request.delivery_info["redelivered"]:
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="tests.exit_at_once")
def exit_at_once() -> None:
    os._exit(7)


@app.task(name="tests.burn_in_threads")
def burn_in_threads(seconds: float, threads: int = 2) -> None:
    """`seconds` on each of so many threads, all joined."""
    running = [threading.Thread(target=burn_for, args=(seconds,)) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


@app.task(name="tests.burn_in_subprocess")
def burn_in_subprocess(seconds: float) -> None:
    code = f"import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-S", "-c", code], check=True)


@app.task(name="tests.spin_for_ever")
def spin_for_ever() -> None:
    spin()


def spin() -> None:
    number = 0
    while True:
        number = (number * 31 + 7) % 65537
