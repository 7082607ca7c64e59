# cython: language_level=3
"""Coroutines of an extension module, which are none of the interpreter's."""

import asyncio

from tests.support.burner import burn


async def pack(seconds):
    burn(seconds)
    await asyncio.sleep(0.001)
    return "packed"


async def stir(times):
    for _ in range(times):
        await asyncio.sleep(0)
    return "stirred"


class Clerk:
    async def sell(self, seconds):
        burn(seconds / 2)
        packed = await pack(seconds / 2)
        return packed + " and sold"


async def spill():
    await asyncio.sleep(0)
    raise ValueError("meant to fail")


async def close():
    try:
        await asyncio.Event().wait()
    finally:
        print("closed", flush=True)


async def prices():
    for price in (2, 3, 5):
        await asyncio.sleep(0)
        yield price


async def add():
    return sum([price async for price in prices()])
