"""Tasks whose coroutines an extension module made: they run as without the agent, and are billed by their own names."""

from __future__ import annotations

import asyncio
import gc
import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import uvloop

from taskwatt.observations import CoroutineTally
from tests.support.loops import measured, run
from tests.support.processes import REPOSITORY, clean_environ

LOOPS = ("asyncio", "uvloop")


def printed(kind: str, folder: Path, **environ: str) -> tuple[int, str, str]:
    """Exit code and what was written to both streams, without addresses."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.cython_tasks.program", kind, str(folder)],
        cwd=REPOSITORY,
        env=clean_environ(PYTHONHASHSEED="0", **environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    out, complained = (re.sub("0x[0-9a-f]+", "<address>", text) for text in (done.stdout, done.stderr))
    return done.returncode, out, complained


@pytest.mark.parametrize("kind", LOOPS)
def test_a_program_does_what_it_does_without(compiled: Path, carrier: str, kind: str, tmp_path: Path) -> None:
    accelerator = "auto" if carrier == "C" else "0"
    agent = {"TASKWATT_ENABLED": "1", "TASKWATT_DIR": str(tmp_path), "TASKWATT_ACCELERATOR": accelerator}
    code, out, complained = printed(kind, compiled)
    assert (code, out.splitlines()[-1], "never retrieved" in complained) == (0, "ended", True)
    assert printed(kind, compiled, **agent) == (code, out, complained)


@pytest.fixture
def shop(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(compiled)
    return importlib.import_module("shop")


@pytest.fixture(params=LOOPS)
def told(request: pytest.FixtureRequest, carrier: str, shop: ModuleType, tmp_path: Path) -> dict[str, CoroutineTally]:
    """What was counted of the shop's types."""
    from taskwatt_asyncio.tallying import tallies

    async def day() -> None:
        async with asyncio.TaskGroup() as group:
            for coroutine in (shop.pack(0.05), shop.pack(0.05), shop.Clerk().sell(0.1), shop.stir(23), shop.add()):
                group.create_task(coroutine)
        await asyncio.gather(asyncio.create_task(shop.spill()), return_exceptions=True)
        closing = asyncio.create_task(shop.close())
        await asyncio.sleep(0.001)
        closing.cancel()
        await asyncio.wait([closing])

    with measured(tmp_path):
        run(day(), request.param)
        return {name: one for name, one in tallies().coroutines.items() if name.startswith("shop.")}


def test_their_cpu_is_billed_to_their_own_names(told: dict[str, CoroutineTally]) -> None:
    cpu = {name: told[name].cpu_s for name in ("shop.pack", "shop.Clerk.sell")}
    assert cpu == pytest.approx({"shop.pack": 0.1, "shop.Clerk.sell": 0.1}, rel=0.05)


def test_how_they_begin_and_end_is_counted(told: dict[str, CoroutineTally]) -> None:
    counted = {
        name: (one.steps, one.self_wakes, one.started, one.completed, one.failed, one.cancelled, one.live)
        for name, one in told.items()
    }
    assert counted == {
        "shop.pack": (4, 0, 2, 2, 0, 0, 0),
        "shop.Clerk.sell": (2, 0, 1, 1, 0, 0, 0),
        "shop.stir": (24, 23, 1, 1, 0, 0, 0),
        "shop.add": (4, 3, 1, 1, 0, 0, 0),
        "shop.spill": (2, 1, 1, 0, 1, 0, 0),
        "shop.close": (2, 0, 1, 0, 0, 1, 0),
    }


@pytest.mark.parametrize("kind", LOOPS)
def test_one_that_is_destroyed_while_it_waits_is_counted_and_disturbs_nothing(
    carrier: str, kind: str, shop: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from taskwatt_asyncio.tallying import tallies

    def strand() -> None:
        loop = uvloop.new_event_loop() if kind == "uvloop" else asyncio.new_event_loop()
        loop.create_task(shop.close())
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()

    with measured(tmp_path):
        strand()
        gc.collect()
        types = tallies().coroutines
    # The collector has Cython forget the name before the task says that it was pending: whose it was is not known.
    assert (types["shop.close"].started, sum(one.destroyed_pending for one in types.values())) == (1, 1)
    assert [record.message for record in caplog.records if record.name == "taskwatt" and record.levelno > 20] == []
