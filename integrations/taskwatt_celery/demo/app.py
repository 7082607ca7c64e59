"""The demo's Celery application: two healthy tasks, and one that retries a dead dependency at once, for ever."""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

from celery import Celery

app = Celery("shop", broker=os.environ.get("TASKWATT_DEMO_BROKER", "redis://127.0.0.1:6379/0"))
app.conf.update(
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    task_default_queue="shop",
)

PAYMENTS = ("127.0.0.1", int(os.environ.get("TASKWATT_DEMO_PAYMENTS_PORT", "9")))
"""Nobody listens there: the payment provider is down."""


@app.task(name="shop.resize_image")
def resize_image(pixels: int) -> int:
    """Honest work: about 8 ms of CPU."""
    return sum(i * i % 255 for i in range(pixels))


@app.task(name="shop.render_catalogue")
def render_catalogue(entries: int) -> int:
    """Honest work with a good deal of JSON in it."""
    return len(json.dumps([{"sku": i, "price": i * 1.1, "tags": ["new", "sale"]} for i in range(entries)]))


@app.task(name="shop.charge_order", bind=True, max_retries=None)
def charge_order(self: Any, order: int) -> str:
    """The bug: no backoff.

    While payments are down every order spins through the queue as fast as the worker can turn it.
    """
    basket = [{"order": order, "line": line, "total": line * 9.99} for line in range(300)]
    signature = sign(json.dumps(basket))
    try:
        with socket.create_connection(PAYMENTS, timeout=1):
            return signature
    except OSError as error:
        raise self.retry(exc=error, countdown=0) from error


def sign(document: str) -> str:
    """A checksum in plain Python, as slow as one would expect."""
    value = 0
    for character in document:
        value = (value * 31 + ord(character)) & 0xFFFFFFFF
    return f"{value:08x}"


def produce(seconds: float) -> int:
    """Send 12 images, 4 catalogues and 5 orders a second; returns the number of orders."""
    orders = 0
    began = time.monotonic()
    tick = 0
    while time.monotonic() - began < seconds:
        tick += 1
        if tick % 5 == 0:
            render_catalogue.delay(400)
        if tick % 4 == 0:
            orders += 1
            charge_order.delay(orders)
        if tick % 2 == 0:
            resize_image.delay(40_000)
        time.sleep(max(0.0, began + tick * 0.05 - time.monotonic()))
    return orders
