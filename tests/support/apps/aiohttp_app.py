"""An aiohttp server: `python -m tests.support.apps.aiohttp_app PORT`."""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

from tests.support.apps import told, work

routes = web.RouteTableDef()


@routes.get("/rows")
async def rows(_: web.Request) -> web.Response:
    return web.json_response(told())


@routes.get("/items/{item_id}")
async def item(request: web.Request) -> web.Response:
    return web.Response(text=request.match_info["item_id"])


@routes.get("/threads/{number}")
async def threads(request: web.Request) -> web.Response:
    await asyncio.to_thread(work, "GET /threads/{number}", int(request.match_info["number"]))
    return web.Response()


@routes.get("/loop/{number}")
async def loop(request: web.Request) -> web.Response:
    work("GET /loop/{number}", int(request.match_info["number"]))
    return web.Response()


@routes.get("/raises")
async def raises(_: web.Request) -> web.Response:
    raise ValueError("as it was")


@routes.get("/unavailable")
async def unavailable(_: web.Request) -> web.Response:
    raise web.HTTPServiceUnavailable


@routes.get("/endless")
async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"drop")
        await asyncio.sleep(0.01)


@routes.get("/ws/{room}")
async def chat(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


def make() -> web.Application:
    app = web.Application()
    app.add_routes(routes)
    sub = web.Application()
    sub.router.add_get("/things/{thing:.*}", item_of_sub)
    app.add_subapp("/sub", sub)
    return app


async def item_of_sub(_: web.Request) -> web.Response:
    return web.Response()


async def by_hand(port: int) -> None:
    runner = web.AppRunner(make())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[2:] == ["by-hand"]:
        asyncio.run(by_hand(int(sys.argv[1])))
    else:
        web.run_app(make(), host="127.0.0.1", port=int(sys.argv[1]), print=None)
