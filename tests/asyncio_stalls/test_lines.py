"""The line that blocks is named: whatever it does, wherever the loop runs, in nearly every stall of 100 ms."""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from taskwatt_asyncio.stalls import watchdog
from tests.asyncio_stalls.conftest import Told
from tests.support.loops import run as run_on

pytestmark = pytest.mark.alone

STALLS = 11


def sleeps() -> None:
    time.sleep(0.12)


def burns() -> None:
    end = time.thread_time() + 0.12
    while time.thread_time() < end:
        pass


def hashes() -> None:
    """A call that gives the interpreter away."""
    hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", 500_000)


def backtracks() -> None:
    """A call that keeps the interpreter."""
    re.match("(a+)+$", "a" * 22 + "b")


def waits() -> None:
    for _ in range(30):
        time.sleep(0.004)


@pytest.fixture(params=[sleeps, burns, hashes, backtracks, waits])
def block(request: pytest.FixtureRequest) -> Any:
    return request.param


def run(block: Callable[[], None]) -> None:
    async def blocking() -> None:
        block()

    async def main() -> None:
        for _ in range(STALLS):
            await asyncio.create_task(blocking())
            await asyncio.sleep(0.02)

    asyncio.run(main())


@pytest.mark.parametrize("where", ["main", "thread"])
def test_the_line_that_blocks_is_named(told: Told, block: Callable[[], None], where: str, unbounded: None) -> None:
    if where == "main":
        run(block)
    else:
        thread = threading.Thread(target=run, args=(block,), name="loop's own")
        thread.start()
        thread.join()
    stalls = [one for one in told() if one.duration_s >= 0.1]
    assert len(stalls) > STALLS // 2
    # On a machine where others want the CPUs, the watchdog waits for one as the loop does.
    fair = [one for one in stalls if one.run_delay_s <= 0.5 * one.duration_s]
    if len(fair) < 5:
        pytest.skip("the host had no CPU for most of the stalls: they tell nothing of the line")
    named = [one for one in fair if one.code is not None and block.__name__ in one.code.function]
    assert len(named) >= 0.95 * len(fair) - 1
    first = block.__code__.co_firstlineno
    assert {one.code.file for one in named if one.code} <= {__file__}
    assert all(first < one.code.line <= first + 4 for one in named if one.code)
    assert {one.loop for one in stalls} == {"MainThread" if where == "main" else "loop's own"}


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_loop_is_looked_at_from_its_first_step_on(told: Told, carrier: str, kind: str, unbounded: None) -> None:
    async def main() -> None:
        backtracks()

    for _ in range(7):
        watchdog.stop()
        run_on(main(), kind)
    fair = [one for one in told() if one.duration_s >= 0.1 and one.run_delay_s <= 0.5 * one.duration_s]
    if not fair:
        pytest.skip("the host had no CPU for any of the stalls: they tell nothing of the line")
    lines = [one.code.function if one.code is not None else "" for one in fair]
    assert lines.count("backtracks") >= len(fair) - 1


class Echo(asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        time.sleep(0.2)


def test_a_protocol_that_blocks_is_caught_under_its_own_name(told: Told) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(Echo, sock=ours)
        await asyncio.sleep(0.1)
        theirs.send(b"ping")
        await asyncio.sleep(0.4)
        transport.close()
        theirs.close()

    asyncio.run(main())
    (stall,) = told()
    assert stall.code is not None
    first = Echo.data_received.__code__.co_firstlineno
    assert (stall.code.function, stall.code.line) == ("Echo.data_received", first + 1)
    assert stall.cause == "blocking"
    assert stall.duration_s >= 0.2
    assert stall.stack.splitlines()[-1].endswith("in Echo.data_received")


def test_a_loop_of_uvloop_is_looked_at_too(told: Told) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def blocking() -> None:
        time.sleep(0.2)  # noqa: ASYNC251

    async def main() -> None:
        await asyncio.sleep(0.1)
        await asyncio.create_task(blocking())
        ours, theirs = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().create_connection(Echo, sock=ours)
        await asyncio.sleep(0.1)
        theirs.send(b"ping")
        await asyncio.sleep(0.4)
        transport.close()
        theirs.close()

    uvloop.run(main())
    found = [(one.task.rpartition(".")[2], one.code.function if one.code else "", one.cause) for one in told()]
    in_a_task = f"{test_a_loop_of_uvloop_is_looked_at_too.__name__}.<locals>.blocking"
    assert found == [("blocking", in_a_task, "blocking"), ("", "Echo.data_received", "blocking")]
