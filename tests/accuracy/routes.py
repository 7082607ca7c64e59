"""A FastAPI application with three async and three sync routes that record what they use; it prints its port.

`GET /figures` tells what they recorded, and the agent's rows. What the server and the framework do for a request is
the route's as well, and in no record: up to a millisecond where other processes have emptied the caches.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI

from tests.accuracy.burn import burn, record, recorded

application = FastAPI()


@application.get("/a/{item}")
async def a(item: int) -> int:
    with record("GET /a/{item}"):
        burn(0.10)
    return item


@application.get("/b/{item}")
async def b(item: int) -> int:
    """Half of it before it waits, half after; while it waits others run."""
    with record("GET /b/{item}"):
        burn(0.12)
    await asyncio.sleep(0.005)
    with record("GET /b/{item}"):
        burn(0.12)
    return item


@application.get("/c")
async def c() -> None:
    """In tasks of its own."""

    async def part() -> None:
        with record("GET /c"):
            burn(0.12)

    await asyncio.gather(part(), part())


@application.get("/sync/a/{item}")
def sync_a(item: int) -> int:
    with record("GET /sync/a/{item}"):
        burn(0.10)
    return item


@application.get("/sync/b/{item}")
def sync_b(item: int) -> int:
    with record("GET /sync/b/{item}"):
        burn(0.12)
    return item


@application.get("/sync/c")
def sync_c() -> None:
    with record("GET /sync/c"):
        burn(0.10)


@application.get("/figures")
async def figures() -> dict[str, Any]:
    from taskwatt import accounts

    rows: dict[str, float] = {}
    for (name, _), row in accounts.rows().items():
        rows[name] = rows.get(name, 0.0) + row.cpu_s
    return {"recorded": recorded, "rows": rows}


class Server(uvicorn.Server):
    async def startup(self, *args: Any, **options: Any) -> None:
        await super().startup(*args, **options)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)


if __name__ == "__main__":
    Server(uvicorn.Config(application, port=0, log_level="warning", access_log=False, loop=sys.argv[1])).run()
