"""A program whose event loop works, waits and blocks a little, until it is told to stop."""

from __future__ import annotations

import asyncio
import sys
import time


async def work() -> None:
    while True:
        until = time.thread_time() + 0.005
        while time.thread_time() < until:
            pass
        await asyncio.sleep(0.02)


async def main(seconds: float) -> None:
    working = asyncio.create_task(work())
    await asyncio.sleep(seconds)
    working.cancel()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
