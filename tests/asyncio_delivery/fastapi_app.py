"""A FastAPI application with a route that works, one in a worker thread, and one that blocks the loop."""

from __future__ import annotations

import time

from fastapi import FastAPI

from tests.asyncio_delivery.script import burn

app = FastAPI()


@app.get("/items/{number}")
async def item(number: int) -> int:
    burn(0.005)
    return number


@app.get("/threads/{number}")
def thread(number: int) -> int:
    burn(0.005)
    return number


@app.get("/blocking/{number}")
async def blocking(number: int) -> int:
    time.sleep(0.3)  # noqa: ASYNC251  # the fault that is to be seen
    return number
