"""Whose CPU it is: of the type whose step used it, of the row that is open, never of what only waited."""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial

import pytest

from taskwatt import accounts
from tests.support.burner import burn
from tests.support.loops import coroutines, run


async def burns(seconds: float) -> None:
    burn(seconds)


async def blocks(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251  # what is tested


async def many(tiny: int) -> None:
    for _ in range(tiny):
        burn(20e-6)
        await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_each_type_is_billed_what_its_steps_used(kind: str) -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for one in (burns(0.05), blocks(0.05), burns(0.03), many(1_000)):
                group.create_task(one)

    before = time.thread_time()
    run(main(), kind)
    used = time.thread_time() - before
    types = coroutines()
    assert types["burns"].cpu_s == pytest.approx(0.08, rel=0.02)
    assert types["blocks"].cpu_s < 0.005
    assert types["blocks"].wall_s >= 0.05
    assert types["many"].steps == 1_001
    assert 1_000 * 20e-6 <= types["many"].cpu_s < used - 0.08
    assert {name: one.own_cpu_s for name, one in types.items()} == {name: one.cpu_s for name, one in types.items()}


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_row_pays_from_where_it_is_opened_to_where_it_is_closed(kind: str) -> None:
    async def handles() -> None:
        burn(0.01)
        row = accounts.open_account("GET /items")
        burn(0.02)
        await asyncio.sleep(0)
        burn(0.02)
        row.close()
        burn(0.01)

    try:
        run(handles(), kind)
        rows = accounts.rows()
        assert rows["GET /items", "useful"].cpu_s == pytest.approx(0.04, rel=0.03)
        assert coroutines()["handles"].cpu_s == pytest.approx(0.06, rel=0.03)
        assert coroutines()["handles"].own_cpu_s == pytest.approx(0.02, rel=0.05)
    finally:
        accounts.forget()


def test_a_child_task_inherits_the_row() -> None:
    async def serves() -> None:
        row = accounts.open_account("GET /items")
        await asyncio.create_task(burns(0.02))
        row.close()

    try:
        asyncio.run(serves())
        assert accounts.rows()["GET /items", "useful"].cpu_s == pytest.approx(0.02, rel=0.1)
        assert coroutines()["burns"].own_cpu_s == pytest.approx(0.0, abs=0.001)
    finally:
        accounts.forget()


def test_a_row_that_was_open_before_the_first_loop_pays_for_its_steps() -> None:
    row = accounts.open_account("GET /items")
    try:
        run(burns(0.03))
        paid = row.cpu_s
        row.close()
        assert paid == pytest.approx(0.03, rel=0.1)
        assert coroutines()["burns"].own_cpu_s == 0.0
    finally:
        accounts.forget()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_an_eager_task_pays_for_its_first_step_and_its_maker_does_not() -> None:
    async def eager(seconds: float) -> None:
        burn(seconds)
        await asyncio.sleep(0)
        burn(seconds)

    async def at_once() -> None:
        burn(0.01)

    async def makes() -> None:
        asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009  # not in 3.11
        burn(0.01)
        one, two = asyncio.create_task(eager(0.02)), asyncio.create_task(at_once())
        await asyncio.gather(one, two)

    asyncio.run(makes())
    types = coroutines()
    told = {name: (types[name].steps, types[name].started, types[name].completed) for name in ("eager", "at_once")}
    assert told == {"eager": (2, 1, 1), "at_once": (1, 1, 1)}
    assert types["eager"].cpu_s == pytest.approx(0.04, rel=0.05)
    assert types["at_once"].cpu_s == pytest.approx(0.01, rel=0.1)
    assert types["makes"].cpu_s == pytest.approx(0.01, rel=0.2)


def test_a_loop_that_runs_inside_a_step_is_not_paid_for_by_the_step() -> None:
    async def inner() -> None:
        burn(0.03)

    async def outer() -> None:
        burn(0.01)
        loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)
        asyncio.run(inner())
        asyncio._set_running_loop(loop)
        burn(0.01)
        await asyncio.sleep(0)
        burn(0.01)

    asyncio.run(outer())
    types = coroutines()
    assert types["inner"].cpu_s == pytest.approx(0.03, rel=0.05)
    assert types["outer"].cpu_s == pytest.approx(0.03, rel=0.2)


def test_callbacks_are_billed_by_what_they_call() -> None:
    class Worker:
        def works(self, seconds: float) -> None:
            burn(seconds)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(partial(partial(Worker().works, 0.01)))
        loop.call_later(0.001, burn, 0.01)
        loop.call_soon({1}.discard, 1)
        loop.call_soon(Callable())
        await asyncio.sleep(0.03)

    asyncio.run(main())
    types = coroutines()
    assert types["works"].cpu_s == pytest.approx(0.01, rel=0.1)
    assert types["burn"].cpu_s == pytest.approx(0.01, rel=0.1)
    kinds = {name: types[name].kind for name in ("works", "burn", "discard", "Callable", "main")}
    assert kinds == {
        "works": "callback",
        "burn": "timer",
        "discard": "callback",
        "Callable": "callback",
        "main": "task",
    }


class Callable:
    def __call__(self) -> None:
        pass


def test_what_a_protocol_does_is_the_protocols() -> None:
    class Echo(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            burn(0.01)
            self.transport.write(data)  # type: ignore[attr-defined]

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x")
        await reader.readexactly(1)
        writer.close()
        server.close()

    asyncio.run(main())
    from taskwatt_asyncio.tallying import tallies

    types = {name: one for name, one in tallies().coroutines.items() if "Echo" in name}
    received = next(one for name, one in types.items() if name.endswith("Echo.data_received"))
    assert received.kind == "io"
    assert received.cpu_s == pytest.approx(0.01, rel=0.1)
