"""Orders are charged at a provider that is down; each charge is retried at once, for ever. FIXED=1 backs off."""

from __future__ import annotations

import os
import socket
from typing import Any

from celery import Celery

FIXED = os.environ.get("FIXED") == "1"
PROVIDER = ("127.0.0.1", 9)
"""Nobody listens there."""

app = Celery("shop", broker=os.environ.get("BROKER", "redis://127.0.0.1:6379/0"))
app.conf.update(
    task_ignore_result=True,
    beat_schedule={"an order": {"task": "shop.charge_order", "schedule": 0.2, "args": (1,)}},
    beat_schedule_filename=os.environ.get("BEAT_SCHEDULE", "/tmp/taskwatt-retry-storm"),
)


@app.task(name="shop.charge_order", bind=True, max_retries=5 if FIXED else None)
def charge_order(self: Any, order: int) -> str:
    signature = sign(f"order {order}, " * 5_000)
    try:
        with socket.create_connection(PROVIDER, timeout=1):
            return signature
    except OSError as error:
        countdown = 2 ** (self.request.retries + 1) if FIXED else 0
        raise self.retry(exc=error, countdown=countdown) from error


def sign(text: str) -> str:
    """A checksum in plain Python: work that is done again with every attempt."""
    value = 0
    for character in text:
        value = (value * 31 + ord(character)) & 0xFFFFFFFF
    return f"{value:08x}"
