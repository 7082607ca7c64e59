"""An aiohttp server with a route that works and one that blocks the loop."""

from __future__ import annotations

import sys
import time

from aiohttp import web

from tests.asyncio_delivery.script import burn


async def item(request: web.Request) -> web.Response:
    burn(0.005)
    return web.Response(text=request.match_info["number"])


async def blocking(request: web.Request) -> web.Response:
    time.sleep(0.3)  # noqa: ASYNC251  # the fault that is to be seen
    return web.Response(text=request.match_info["number"])


def application() -> web.Application:
    app = web.Application()
    app.router.add_get("/items/{number}", item)
    app.router.add_get("/blocking/{number}", blocking)
    return app


if __name__ == "__main__":
    web.run_app(application(), host="127.0.0.1", port=int(sys.argv[1]), print=None)
