"""FastAPI with what its users build: coroutines and functions, routers in routers, mounts, streams, WebSockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response, WebSocket
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from tests.support.apps import told, work

app = FastAPI()


class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


app.add_middleware(Passing)


@app.get("/rows")
async def rows() -> dict[str, Any]:
    return told()


@app.get("/async/one/{number}")
async def async_one(number: int) -> None:
    work("GET /async/one/{number}", number)


@app.get("/async/two/{number}")
async def async_two(number: int) -> None:
    work("GET /async/two/{number}", number / 2)
    await asyncio.sleep(0)
    work("GET /async/two/{number}", number / 2)


@app.get("/async/three/{number}")
async def async_three(number: int) -> None:
    async def child() -> None:
        work("GET /async/three/{number}", number / 2)

    await asyncio.gather(child(), asyncio.to_thread(work, "GET /async/three/{number}", number / 2))


@app.get("/sync/one/{number}")
def sync_one(number: int) -> None:
    work("GET /sync/one/{number}", number)


@app.get("/sync/two/{number}")
def sync_two(number: int) -> None:
    work("GET /sync/two/{number}", number)


def half(number: int) -> int:
    work("GET /sync/three/{number}", number / 2)
    return number


@app.get("/sync/three/{number}")
def sync_three(number: Annotated[int, Depends(half)]) -> None:
    work("GET /sync/three/{number}", number / 2)


@app.get("/pieces/{number}")
def pieces(number: int) -> StreamingResponse:
    def thirds() -> Iterator[bytes]:
        for _ in range(3):
            work("GET /pieces/{number}", number / 3)
            yield b"piece"

    return StreamingResponse(thirds())


shop = APIRouter(prefix="/shop")
items = APIRouter(prefix="/items")


@items.get("/{item_id}")
async def item(item_id: str) -> str:
    return item_id


@items.post("/{item_id}")
async def order(item_id: str) -> str:
    return item_id


shop.include_router(items)
app.include_router(shop, prefix="/v1")

sub = FastAPI()


@sub.get("/things/{thing:path}")
async def thing(thing: str) -> str:
    return thing


app.mount("/sub", sub)


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("plain")(scope, receive, send)


app.mount("/plain", plain)


@app.get("/raises")
async def raises() -> None:
    raise ValueError("as it was")


@app.get("/unavailable")
async def unavailable() -> Response:
    return Response(status_code=503)


@app.get("/missing")
async def missing() -> None:
    raise HTTPException(404)


@app.get("/endless")
async def endless() -> StreamingResponse:
    async def drops() -> AsyncIterator[bytes]:
        while True:
            yield b"drop"
            await asyncio.sleep(0.01)

    return StreamingResponse(drops())


@app.get("/background/{number}")
async def background(number: int, tasks: BackgroundTasks) -> None:
    tasks.add_task(work, "GET /background/{number}", number)


@app.websocket("/ws/{room}")
async def chat(socket: WebSocket, room: str) -> None:
    await socket.accept()
    while True:
        await socket.send_text(await socket.receive_text())
