"""Celery tasks that run an event loop of their own, for a moment and for seconds."""

from __future__ import annotations

import asyncio
import os

from celery import Celery

from tests.asyncio_delivery.script import burn

app = Celery("tests", broker=os.environ.get("TEST_BROKER", "memory://"))
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)


async def fetch() -> None:
    burn(0.02)
    await asyncio.sleep(0.01)


async def fetch_all(times: int) -> None:
    for _ in range(times):
        await fetch_one()


async def fetch_one() -> None:
    await asyncio.create_task(fetch())


@app.task(name="tests.run")
def run(times: int) -> None:
    asyncio.run(fetch_all(times))
