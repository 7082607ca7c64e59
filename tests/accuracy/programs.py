"""Programs that know how much CPU each of their coroutine types used: `python -m tests.accuracy NAME`.

Each ends by printing, as JSON, what it recorded itself and what the agent counted. What a step costs beside its burn
is nobody's record: some microseconds, and 80 us where other processes have emptied the caches. So a step burns 20 ms or
more, or what it costs beside that is known.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from time import thread_time
from typing import Any

from tests.accuracy.burn import burn, record, recorded, repeat

HERE = "tests.accuracy.programs"
NUMBERS = list(range(20_000))
SHUFFLED = [number * 7919 % 20_011 for number in NUMBERS]
TEXT = "a b1 c22 d333 " * 2_000
LARGE = bytes(range(256)) * 8_192
NUMBER = re.compile(r"([a-z])(\d+)")

SPINNING = "import time; end = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
"""It ends by itself, should whoever started it be killed."""

TINY_STEPS = 3_000
TINY_S = 35e-6


async def heavy() -> None:
    for _ in range(12):
        with record(f"{HERE}.heavy"):
            burn(0.04)
        await asyncio.sleep(0)


async def light() -> None:
    """A fifth of both."""
    for _ in range(6):
        with record(f"{HERE}.light"):
            burn(0.02)
        await asyncio.sleep(0)


async def python() -> None:
    await asyncio.gather(heavy(), light())


async def summing() -> None:
    for _ in range(6):
        repeat(f"{HERE}.summing", lambda: sum(NUMBERS), 0.03)
        await asyncio.sleep(0)


async def sorting() -> None:
    for _ in range(6):
        repeat(f"{HERE}.sorting", lambda: sorted(SHUFFLED), 0.03)
        await asyncio.sleep(0)


async def matching() -> None:
    for _ in range(6):
        repeat(f"{HERE}.matching", lambda: NUMBER.findall(TEXT), 0.03)
        await asyncio.sleep(0)


async def holding() -> None:
    """Calls into C that hold the interpreter."""
    await asyncio.gather(summing(), sorting(), matching())


async def hashing() -> None:
    for _ in range(6):
        repeat(f"{HERE}.hashing", lambda: hashlib.sha256(LARGE).digest(), 0.03)
        await asyncio.sleep(0)


async def compressing() -> None:
    for _ in range(6):
        repeat(f"{HERE}.compressing", lambda: zlib.compress(LARGE, 6), 0.03)
        await asyncio.sleep(0)


async def releasing() -> None:
    """Calls into C that release it, beside one type that does not call them."""
    await asyncio.gather(hashing(), compressing(), light())


async def tiny() -> None:
    for _ in range(TINY_STEPS):
        with record(f"{HERE}.tiny"):
            burn(TINY_S)
        await asyncio.sleep(0)


async def tinier() -> None:
    for _ in range(TINY_STEPS):
        with record(f"{HERE}.tinier"):
            burn(TINY_S)
        await asyncio.sleep(0)


async def tiniest() -> None:
    for _ in range(TINY_STEPS):
        with record(f"{HERE}.tiniest"):
            burn(TINY_S)
        await asyncio.sleep(0)


async def steps() -> None:
    """Thousands of steps too short for the CPU clock to be read; all alike, so that each costs as much beside its burn.

    The types differ by their number: three, two and one task.
    """
    await asyncio.gather(tiny(), tinier(), tiny(), tiniest(), tinier(), tiny())


async def sleeper() -> None:
    for _ in range(10):
        with record(f"{HERE}.sleeper"):
            time.sleep(0.05)  # noqa: ASYNC251  # that is the fault
        await asyncio.sleep(0)


async def sleeping() -> None:
    """The loop is blocked most of the time by a type that uses nothing."""
    await asyncio.gather(sleeper(), heavy())


async def beside_a_hog() -> None:
    """Another thread wants the interpreter all the time."""
    ended = threading.Event()
    hog = threading.Thread(target=_hog, args=(ended,))
    hog.start()
    try:
        await asyncio.gather(heavy(), light())
    finally:
        ended.set()
        hog.join()


def _hog(ended: threading.Event) -> None:
    while not ended.is_set():
        sum(range(1_000))


async def crowded() -> None:
    """Six other processes want the CPUs."""
    with ExitStack() as others:
        for _ in range(6):
            other = subprocess.Popen([sys.executable, "-S", "-c", SPINNING], env={})  # noqa: ASYNC220
            others.callback(other.wait)
            others.callback(other.kill)
        await asyncio.gather(heavy(), light())


async def submitting() -> None:
    for _ in range(8):
        await asyncio.to_thread(_in_a_thread, f"{HERE}.submitting", 0.03)


async def submitting_less() -> None:
    loop = asyncio.get_running_loop()
    for _ in range(8):
        await loop.run_in_executor(None, _in_a_thread, f"{HERE}.submitting_less", 0.01)


def _in_a_thread(name: str, seconds: float) -> None:
    with record(name):
        burn(seconds)


async def threads() -> None:
    """Work that is done in threads, beside work on the loop."""
    await asyncio.gather(submitting(), submitting_less(), light())


async def mixed() -> None:
    """Streams, timers, callbacks, tasks that come and go, a request of 6 ms: what a program's loop does all day."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            burn(0.004)
            writer.write(line)
        writer.close()

    async def wait_a_little() -> None:
        burn(0.001)
        await asyncio.sleep(0.001)

    async def ask(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(20):
            writer.write(b"x" * 100 + b"\n")
            await asyncio.wait_for(reader.readline(), 60)
            await asyncio.create_task(wait_a_little())
            asyncio.get_running_loop().call_soon(burn, 0.001)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        await asyncio.gather(*[ask(server.sockets[0].getsockname()[1]) for _ in range(6)])


PROGRAMS: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
    one.__name__: one for one in (python, holding, releasing, steps, sleeping, beside_a_hog, crowded, threads, mixed)
}


def run(name: str) -> dict[str, Any]:
    """Run one of them: what it recorded; what the agent counted by type (as its ledger does: work in threads included)
    and in all on the loop's thread; and what the kernel charged that thread.
    """
    from taskwatt.runtime import runtime

    with asyncio.Runner() as runner:
        runner.run(asyncio.sleep(0))
        before = thread_time()
        runner.run(PROGRAMS[name]())
        kernel = thread_time() - before
    assert runtime.tallies is not None, "the agent does not watch loops"
    tallies = runtime.tallies()
    return {
        "recorded": recorded,
        "counted": {key: one.own_cpu_s for key, one in tallies.coroutines.items()},
        "on_the_loop": sum(one.cpu_s for one in tallies.coroutines.values()),
        "kernel": kernel,
    }


def main() -> None:
    print(json.dumps(run(sys.argv[1])))
