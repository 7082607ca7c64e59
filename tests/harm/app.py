"""The application of these tests: tasks that would show it if somebody stood between them and Celery.

TEST_BREAK names a part of the agent that this module breaks, as a bug of ours would.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.exceptions import SoftTimeLimitExceeded

from tests.harm import breakage
from tests.harm.names import LONG_NAME

app = Celery("harm", broker=os.environ.get("TEST_BROKER", "memory://"), backend=os.environ.get("TEST_BACKEND"))
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_store_errors_even_if_ignored=True,
    result_extended=True,
    worker_prefetch_multiplier=1,
)


@app.task(name="tests.add")
def add(a: int, b: int) -> int:
    return a + b


def not_hit() -> str:
    return "not hit"


for _name in breakage.LIMITS:
    app.task(name=f"tests.{_name}")(not_hit)


@app.task(name="tests.pid")
def pid() -> int:
    return os.getpid()


@app.task(name="tests.fail")
def fail() -> None:
    raise ValueError("meant to fail")


@app.task(name="tests.fail_with_a_cause")
def fail_with_a_cause() -> None:
    try:
        json.loads("{" + " " * 5000)
    except ValueError as error:
        raise RuntimeError("meant to fail") from error


@app.task(name="tests.fail_to_encode")
def fail_to_encode() -> str:
    return json.dumps({"deep": [object()]})


@app.task(name="tests.return_what_cannot_be_stored")
def return_what_cannot_be_stored() -> object:
    return {1, 2}.__iter__()


@app.task(name="tests.request", bind=True)
def request(self: Any) -> dict[str, Any]:
    """Everything of the request that is data."""
    return {key: value for key, value in vars(self.request).items() if isinstance(value, (str, int, list, dict))}


@app.task(name="tests.retry", bind=True, max_retries=2)
def retry(self: Any, times: int) -> dict[str, Any]:
    if self.request.retries < times:
        raise self.retry(countdown=0, exc=KeyError("meant to be retried"))
    return {"retries": self.request.retries, "args": self.request.args, "headers": self.request.headers}


@app.task(name="tests.retry_eagerly_raised", bind=True, max_retries=1)
def retry_eagerly_raised(self: Any) -> str:
    """`retry(throw=False)` schedules and goes on."""
    if self.request.retries == 0:
        self.retry(countdown=0, throw=False)
    return f"attempt {self.request.retries}"


@app.task(name="tests.autoretry", bind=True, autoretry_for=(OSError,), max_retries=2, retry_backoff=False)
def autoretry(self: Any) -> int:
    self.default_retry_delay = 0
    raise ConnectionError("meant to be retried")


@app.task(name="tests.soft", soft_time_limit=1)
def soft() -> str:
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded as limit:
        return f"cleaned up after {limit!r}"
    return "the limit was lost"


@app.task(name="tests.soft_uncaught", soft_time_limit=1)
def soft_uncaught() -> None:
    time.sleep(30)


@app.task(name="tests.die_once", bind=True, acks_late=True, reject_on_worker_lost=True)
def die_once(self: Any, mark: str) -> bool:
    """Killed in its first attempt; the broker runs it again."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return bool(self.request.delivery_info["redelivered"])


@app.task(name="tests.kill_itself")
def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="tests.nested")
def nested() -> list[Any]:
    """A task called as a function, one applied eagerly, one that fails eagerly."""
    failed = fail.apply()
    return [add(1, 2), add.apply((3, 4)).get(disable_sync_subtasks=False), failed.state, failed.traceback]


class Counting(Task):  # type: ignore[type-arg]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ["called", self.run(*args, **kwargs)]


@app.task(name="tests.custom", base=Counting, bind=True)
def custom(self: Any, value: int) -> Any:
    return [value, type(self).__mro__[1].__name__, sys._getframe(1).f_code.co_qualname]


@app.task(name="tests.caller")
def caller() -> list[str]:
    """Who called the task: the code that Celery's own tracer shows, however it is wrapped."""
    tasks: tuple[Any, Any] = (custom, add)
    return [tasks[0].__wrapped__.__qualname__, str(tasks[1].__wrapped__(1, 2)), add.run.__qualname__, add.name]


@app.task(name="tests.warn")
def warn() -> None:
    warnings.warn("meant to be seen", UserWarning, stacklevel=2)
    print("printed by the task")


@app.task(name="tests.modules")
def modules() -> list[str]:
    return sorted(name for name in sys.modules if name.startswith("taskwatt"))


@app.task(name="tests.descriptors")
def descriptors() -> list[str]:
    """What this process has open."""
    found: list[str] = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{entry}"))
        except OSError:
            continue
    return found


@app.task(name="tests.publish")
def publish() -> str:
    return str(add.delay(20, 3).id)


@app.task(name=LONG_NAME)
def long_name() -> str:
    return "done"


breakage.apply(os.environ.get("TEST_BREAK", ""))
