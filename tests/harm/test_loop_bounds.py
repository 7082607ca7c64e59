"""However much a program makes of something, what is kept of it is bounded; taken out, nothing of ours is left."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.harm.loop_restored import MOMENTS
from tests.support.processes import REPOSITORY, clean_environ

PRELUDE = """
import asyncio, gc, json, os, sys, threading, time, weakref
from asyncio import events

def resident_mb():
    gc.collect()
    with open("/proc/self/smaps_rollup") as lines:
        return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("Pss:"))

def tallies():
    from taskwatt.runtime import runtime
    return runtime.tallies()

def watched():
    return "TASKWATT_ENABLED" in os.environ
"""


@pytest.fixture(params=["0", "auto"], ids=["python", "accelerator"])
def accelerator(request: pytest.FixtureRequest) -> str:
    if request.param == "auto" and importlib.util.find_spec("taskwatt_fast") is None:
        pytest.skip("the accelerator is not built")
    return str(request.param)


def run(code: str, folder: Path, **environ: str) -> Any:
    """What the program prints at its end, as JSON; it complains of nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(code)],
        cwd=REPOSITORY,
        env=clean_environ(TASKWATT_DIR=str(folder), **environ),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def beyond(code: str, folder: Path, accelerator: str) -> tuple[float, Any]:
    """Megabytes that the program holds more with the agent than without; what else it says."""
    plain, _ = run(code, folder)
    held, said = run(code, folder, TASKWATT_ENABLED="1", TASKWATT_ACCELERATOR=accelerator)
    return held - plain, said


def test_a_hundred_thousand_live_tasks(accelerator: str, tmp_path: Path) -> None:
    """The agent's own modules are loaded before: what is counted is what the tasks cost."""
    code = """
    async def waiting(event):
        await event.wait()

    async def main():
        event = asyncio.Event()
        await asyncio.sleep(2.5 if watched() else 0)
        before = resident_mb()
        tasks = [asyncio.create_task(waiting(event)) for _ in range(100_000)]
        await asyncio.sleep(0)
        held = resident_mb() - before
        live = tallies().coroutines["__main__.waiting"].live if watched() else 0
        event.set()
        await asyncio.gather(*tasks)
        left = tallies().coroutines["__main__.waiting"].live if watched() else 0
        return held, (live, left)

    print(json.dumps(asyncio.run(main())))
    """
    held, said = beyond(code, tmp_path, accelerator)
    assert said == [100_000, 0]
    assert held < 5.0


def test_ten_thousand_coroutine_types(accelerator: str, tmp_path: Path) -> None:
    """A thousand have figures of their own, the others share; and none is missing."""
    code = """
    async def main():
        await asyncio.sleep(2.5 if watched() else 0)
        before = resident_mb()
        for number in range(10_000):
            made = {}
            exec(f"async def type_{number}():\\n    pass", made)
            await asyncio.create_task(made.popitem()[1]())
        held = resident_mb() - before
        if not watched():
            return held, None
        types = tallies().coroutines
        steps = sum(one.steps for name, one in types.items() if "type_" in name or name == "other")
        return held, (len(types), steps >= 10_000)

    print(json.dumps(asyncio.run(main())))
    """
    held, said = beyond(code, tmp_path, accelerator)
    assert said[0] <= 1_001
    assert said[1]
    assert held < 8.0  # 3 to 7 MB were seen: the code of a thousand types is kept alive


def test_a_thousand_loops_one_after_another(accelerator: str, tmp_path: Path) -> None:
    """In the main thread and in threads that end; no loop is kept, and each is counted."""
    code = """
    loops = weakref.WeakSet()

    async def main():
        loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0)

    def all_of_them(number):
        for n in range(number):
            if n % 2:
                asyncio.run(main())
            else:
                thread = threading.Thread(target=asyncio.run, args=(main(),), name=f"loop-{n}")
                thread.start()
                thread.join()

    all_of_them(20)
    if watched():
        time.sleep(2.5)
    before, descriptors = resident_mb(), len(os.listdir("/proc/self/fd"))
    all_of_them(1_000)
    held = resident_mb() - before
    gc.collect()
    said = None
    if watched():
        from taskwatt_asyncio import loop_threads as ours
        found = tallies()
        steps = found.coroutines["__main__.main"]
        until = time.monotonic() + 20
        while len(os.listdir("/proc/self/fd")) > descriptors and time.monotonic() < until:
            time.sleep(0.1)  # the watchdog ends a while after the last loop, and closes its own
        opened = max(0, len(os.listdir("/proc/self/fd")) - descriptors)
        said = len(ours.running), len(found.loops) <= 65, len(loops), opened, steps.completed, steps.live
    print(json.dumps((held, said)))
    """
    held, said = beyond(code, tmp_path, accelerator)
    assert said == [0, True, 0, 0, 1_020, 0]
    assert held < 5.0


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_all_is_as_it_was(accelerator: str, tmp_path: Path, kind: str, moment: str) -> None:
    """The agent is put in and taken out, and every attribute of what could be hooked is what it was."""
    code = f"""
    from tests.harm import loop_restored
    print(json.dumps(loop_restored.run({kind!r}, {moment!r})))
    """
    assert run(code, tmp_path, TASKWATT_ACCELERATOR=accelerator) == []
