"""What a look before a step tells of why the task waited, and the loop after it of what the step made ready."""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.support.loops import coroutines

TIMES = 7


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def refused_by_address(port: int) -> None:
    await asyncio.open_connection("127.0.0.1", port)


async def refused_by_name(port: int) -> None:
    await asyncio.open_connection("localhost", port)


async def refused_within_a_time(port: int) -> None:
    await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 5)


@pytest.mark.parametrize("attempt", [refused_by_address, refused_by_name, refused_within_a_time])
def test_an_attempt_to_connect_is_known_however_it_is_made(attempt: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    async def reconnects() -> None:
        port = closed_port()
        for _ in range(TIMES):
            with pytest.raises(OSError, match=r"[Cc]onnect"):
                await attempt(port)

    async def main() -> None:
        await asyncio.create_task(reconnects())

    asyncio.run(main())
    told = coroutines()["reconnects"]
    assert told.connecting == told.looks >= TIMES


def test_a_connection_that_works_is_seen_elsewhere_too() -> None:
    async def talks(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(TIMES):
            writer.write(b"x")
            await reader.readexactly(1)
        writer.close()
        await writer.wait_closed()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1):
            writer.write(data)
        writer.close()
        await writer.wait_closed()
        ended.set()

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        await asyncio.create_task(talks(server.sockets[0].getsockname()[1]))
        await ended.wait()
        server.close()

    ended = asyncio.Event()
    asyncio.run(main())
    told = coroutines()["talks"]
    assert told.connecting <= 1
    assert told.looks >= TIMES


def test_asyncio_wait_is_known_with_how_many_it_was_given() -> None:
    async def collects() -> None:
        pending = {asyncio.create_task(asyncio.sleep(number / 1_000)) for number in range(1, TIMES + 1)}
        given = 0
        while pending:
            given += len(pending)
            calls.append(len(pending))
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)

    async def main() -> None:
        await asyncio.create_task(collects())

    calls: list[int] = []
    asyncio.run(main())
    told = coroutines()["collects"]
    assert (told.looks, told.scanning, told.scanned) == (len(calls), len(calls), sum(calls))


def test_the_end_of_a_pipe_is_told_from_bytes_in_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        reading, writing = os.pipe()
        runs: list[bytes] = []

        def reads() -> None:
            runs.append(os.read(reading, 1))
            if len(runs) == 2 * TIMES:
                loop.remove_reader(reading)
                ended.set_result(None)

        loop.add_reader(reading, reads)
        os.write(writing, b"x" * TIMES)
        os.close(writing)
        await ended
        os.close(reading)

    asyncio.run(main())
    told = coroutines()["reads"]
    assert (told.kind, told.looks, told.at_end) == ("io", 2 * TIMES, TIMES)


def test_files_that_the_user_registered_with_the_selector_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        reading, writing = os.pipe()
        for data in (None, "name", ()):
            strangers.append(os.pipe())
            loop._selector.register(strangers[-1][0], selectors.EVENT_READ, data)  # type: ignore[attr-defined]
        runs: list[bytes] = []

        def reads() -> None:
            runs.append(os.read(reading, 1))
            if len(runs) == TIMES:
                loop.remove_reader(reading)
                ended.set_result(None)

        loop.add_reader(reading, reads)
        os.write(writing, b"x" * TIMES)
        await ended
        for descriptor in (reading, writing):
            os.close(descriptor)
        for stranger in strangers:
            loop._selector.unregister(stranger[0])  # type: ignore[attr-defined]
            for descriptor in stranger:
                os.close(descriptor)

    strangers: list[tuple[int, int]] = []
    asyncio.run(main())
    told = coroutines()["reads"]
    assert (told.kind, told.steps, told.looks, told.at_end) == ("io", TIMES, TIMES, 0)
    assert [record.message for record in caplog.records if record.name == "taskwatt"] == []


def test_what_a_step_makes_ready_is_known_when_it_was_the_last_one() -> None:
    async def produces(queue: asyncio.Queue[int]) -> None:
        for number in range(TIMES):
            await asyncio.sleep(0.001)
            queue.put_nowait(number)
        await asyncio.sleep(0.001)

    async def consumes(queue: asyncio.Queue[int]) -> None:
        for _ in range(TIMES):
            await queue.get()

    async def polls() -> None:
        for _ in range(TIMES):
            await asyncio.sleep(0.001)
        await asyncio.sleep(10)

    async def main() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()
        consumer = asyncio.create_task(consumes(queue))
        await asyncio.create_task(produces(queue))
        await consumer
        poller = asyncio.create_task(polls())
        await asyncio.sleep(0.1)
        poller.cancel()

    asyncio.run(main())
    told = {name: (coroutines()[name].last, coroutines()[name].woke) for name in ("produces", "polls")}
    # The last step of a task wakes whoever waits for it; a poller's last one is its cancellation.
    assert told["produces"] == (TIMES + 1, TIMES + 1)
    assert told["polls"][0] >= TIMES
    assert told["polls"][1] <= 1


def test_a_busy_type_has_to_earn_its_looks() -> None:
    async def spins() -> None:
        began = time.perf_counter()
        while time.perf_counter() - began < 0.5:  # noqa: ASYNC110  # what is tested
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.create_task(spins())

    began = time.perf_counter()
    asyncio.run(main())
    passed = time.perf_counter() - began
    told = coroutines()["spins"]
    # The first 32 steps, then two in a row about 10 times a second: when is foretold in steps, whose speed varies.
    assert 34 <= told.looks <= 34 + 100 * passed
