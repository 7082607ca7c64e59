"""An application whose beat has something to publish at once."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("beat", broker=os.environ.get("TEST_BROKER", "memory://"))
app.conf.update(
    task_ignore_result=True,
    beat_schedule={"often": {"task": "tests.noop", "schedule": 0.5}},
)


@app.task(name="tests.noop")
def noop() -> None:
    """Nothing."""
