"""`python -m tests.cython_tasks.program LOOP FOLDER`: a day in the shop, as it was compiled into FOLDER."""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import sys
import traceback
from typing import Any


def show(*what: object) -> None:
    print(*what, flush=True)


async def day(shop: Any) -> None:
    show(await asyncio.create_task(shop.Clerk().sell(0.002), name="sale"))
    show(await asyncio.gather(shop.pack(0.001), shop.stir(7), shop.add()))
    try:
        async with asyncio.TaskGroup() as group:
            closing = group.create_task(shop.close(), name="closing")
            failed = group.create_task(shop.spill())
    except* ValueError as group_error:
        traceback.print_exception(group_error, file=sys.stdout)
    show(closing.cancelled(), repr(failed.exception()), repr(closing))
    try:
        await asyncio.wait_for(shop.close(), 0.001)
    except TimeoutError:
        show("timed out")
    waiting = asyncio.create_task(shop.close(), name="waiting")
    await asyncio.sleep(0)
    coroutine: Any = waiting.get_coro()
    show(repr(coroutine), inspect.isawaitable(coroutine), coroutine.__qualname__, sys.getrefcount(coroutine))
    show(repr(waiting), [frame.f_code.co_name for frame in waiting.get_stack()])
    waiting.cancel("the day ends")
    show(*await asyncio.gather(waiting, return_exceptions=True))
    asyncio.create_task(shop.spill())  # noqa: RUF006  # never retrieved
    await asyncio.sleep(0.001)
    shop.add()
    gc.collect()


def main(kind: str, folder: str) -> None:
    sys.path.insert(0, folder)
    shop = importlib.import_module("shop")
    factory = None
    if kind == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(day(shop))
    show("ended")


if __name__ == "__main__":
    main(*sys.argv[1:])
