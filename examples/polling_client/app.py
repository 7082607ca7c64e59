"""A client with a bug: it asks a server every millisecond whether there is something new, and there seldom is.

`GET /next` of the server answers at once, mostly with nothing. The client could wait there (`GET /next?wait=10`), and
does not.
"""

from __future__ import annotations

import asyncio
import sys
import time

from aiohttp import ClientSession, web

NEWS_EVERY_S = 2.0


async def serve() -> tuple[web.AppRunner, int]:
    """The server, on a port of its own."""

    async def news(_: web.Request) -> web.Response:
        fresh = time.monotonic() % NEWS_EVERY_S < 0.01
        return web.json_response({"order": 7} if fresh else None)

    app = web.Application()
    app.add_routes([web.get("/next", news)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, runner.addresses[0][1]


async def poll(port: int) -> None:
    """The bug."""
    async with ClientSession() as session:
        while True:
            async with session.get(f"http://127.0.0.1:{port}/next") as answer:
                if await answer.json() is not None:
                    await handle()
            await asyncio.sleep(0.001)


async def handle() -> None:
    await asyncio.sleep(0)


async def main(seconds: float) -> None:
    runner, port = await serve()
    polling = asyncio.create_task(poll(port))
    await asyncio.sleep(seconds)
    polling.cancel()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
