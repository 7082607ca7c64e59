"""The same program is counted alike by both carriers, whatever it does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.support.loops import coroutines, measured, run

Counts = dict[str, tuple[int, ...]]


async def yields(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def waits(gate: asyncio.Event) -> None:
    await gate.wait()


async def fails(number: int) -> None:
    await yields(number)
    raise ValueError(number)


async def gives_up(gate: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(0):
            await gate.wait()
    except TimeoutError:
        await asyncio.sleep(0)


async def swallows(gate: asyncio.Event) -> None:
    try:
        await gate.wait()
    except asyncio.CancelledError:
        await asyncio.sleep(0)


async def spawns(dice: random.Random) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(dice.randrange(4)):
            group.create_task(yields(dice.randrange(5)))


async def iterates(number: int) -> None:
    async def numbers() -> Any:
        for one in range(number):
            await asyncio.sleep(0)
            yield one

    assert [one async for one in numbers()] == list(range(number))


async def program(seed: int) -> None:
    dice = random.Random(seed)
    gate, never = asyncio.Event(), asyncio.Event()
    makers: list[Callable[[], Coroutine[Any, Any, None]]] = [
        lambda: yields(dice.randrange(6)),
        lambda: waits(gate),
        lambda: fails(dice.randrange(3)),
        lambda: gives_up(never),
        lambda: swallows(never),
        lambda: spawns(dice),
        lambda: iterates(dice.randrange(4)),
    ]
    tasks = [asyncio.create_task(dice.choice(makers)()) for _ in range(dice.randrange(20, 60))]
    await asyncio.sleep(0)
    for task in dice.sample(tasks, len(tasks) // 3):
        task.cancel()
    await yields(10)
    gate.set()
    await yields(10)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def counted(folder: Path, seed: int, kind: str) -> Counts:
    with measured(folder):
        run(program(seed), kind)
        return {
            name: (one.steps, one.self_wakes, one.started, one.completed, one.failed, one.cancelled)
            for name, one in coroutines().items()
            if name in globals()
        }


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
@pytest.mark.parametrize("seed", range(8))
def test_a_random_program_is_counted_alike(
    c: Any, seed: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_c = counted(tmp_path / "c", seed, kind)
    monkeypatch.setenv("TASKWATT_ACCELERATOR", "0")
    in_python = counted(tmp_path / "python", seed, kind)
    assert in_c == in_python
    assert sum(steps for steps, *_ in in_c.values()) > 60
