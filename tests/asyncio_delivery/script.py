"""A plain program: two kinds of work, one that waits, and a thread that is nobody's."""

from __future__ import annotations

import asyncio
import sys
import threading
import time


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def crunch() -> None:
    burn(0.05)


async def fetch() -> None:
    burn(0.01)
    await asyncio.sleep(0.01)


async def main(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.gather(crunch(), fetch(), fetch())
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    threading.Thread(target=burn, args=(0.5,), daemon=True).start()
    asyncio.run(main(float(sys.argv[1])))
    print("done")
