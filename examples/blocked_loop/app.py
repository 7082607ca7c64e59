"""A FastAPI service on uvloop with a bug: one of its routes does blocking work on the event loop.

`GET /report` reads from a slow disk with `time.sleep` in the place of the disk. While it does, nothing else of the
service answers: `GET /health`, which does nothing, waits with all others.
"""

from __future__ import annotations

import asyncio
import time

from fastapi import FastAPI

app = FastAPI()


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/orders/{order_id}")
async def order(order_id: int) -> dict[str, int]:
    await asyncio.sleep(0.01)
    return {"order": order_id, "checksum": sum(number * number for number in range(20_000)) % 1_000}


@app.get("/report")
async def report() -> dict[str, int]:
    return {"bytes": read_archive()}


def read_archive() -> int:
    """The bug. `await asyncio.to_thread(read_archive)` is the fix."""
    time.sleep(0.25)
    return 4096
