"""Of steps that hold their loop for 100 ms and longer: how many are told without the line that held it.

A process blocks its loop again and again at known lines: in a catastrophic regular expression, which keeps the
interpreter to itself, in Python, and in a call that sleeps. Between them the loop rests or runs short steps.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from benchmarks.results import NotMeasured, Row
from benchmarks.statistics import Interval
from taskwatt.observations import Stall
from taskwatt.rules.statistics import wilson_lower

BUDGET = 5.0
"""% of stalls."""
LOOPS = ("asyncio", "uvloop")
BESIDE = {"alone": 0, "beside a process that spins": 1}
STALLS = 40
_LEAST_S = 0.11
_STALL_NS = 100_000_000


def measure(rounds: int) -> list[Row | NotMeasured]:
    """Over both loops and both carriers: with 75 stalls, and none without a line, the interval ends at 5 %."""
    rows: list[Row | NotMeasured] = []
    for where, number in BESIDE.items():
        with _spinning(number):
            told = [
                one
                for loop in LOOPS
                for accelerator in ("auto", "0")
                for seed in range(rounds)
                for one in _subject(loop, accelerator, seed)
            ]
        for what, group in (("in a regular expression", ["backtracks"]), ("elsewhere", ["burns", "sleeps"])):
            rows.append(_row(f"{what}, {where}", [one for function, one in told if function in group]))
    return rows


def _row(what: str, named: Sequence[bool]) -> Row:
    n, missed = len(named), named.count(False)
    low, high = wilson_lower(missed, n), 1.0 - wilson_lower(n - missed, n)
    share = Interval(*(100 * one for one in (low, missed / max(n, 1), high)))
    return Row("lines", what, share, "% without", n, BUDGET)


def _subject(loop: str, accelerator: str, seed: int) -> list[tuple[str, bool]]:
    with tempfile.TemporaryDirectory(prefix="taskwatt-bench-") as folder:
        environ = {**os.environ, "TASKWATT_ACCELERATOR": accelerator, "TASKWATT_DIR": folder}
        command = [sys.executable, "-m", "benchmarks.stall_lines", loop, str(seed)]
        done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, timeout=120, check=True)
    return [(function, named) for function, named in json.loads(done.stdout)]


@contextmanager
def _spinning(number: int) -> Generator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def backtracks(seconds: float) -> None:
    """The nearest longer one of a few lengths; each takes twice as long as the one before."""
    text = next((text for text, took in _texts.items() if took >= seconds), max(_texts, default=""))
    re.match("(a+)+$", text)


def burns(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def sleeps(seconds: float) -> None:
    time.sleep(seconds)


BLOCKS: Sequence[Callable[[float], None]] = (backtracks, burns, backtracks, sleeps)
_texts: dict[str, float] = {}


def _find_lengths() -> None:
    took, number = 0.0, 15
    while took < 2 * _LEAST_S:
        number += 1
        text = "a" * number + "b"
        began = time.perf_counter()
        re.match("(a+)+$", text)
        took = time.perf_counter() - began
        if took >= _LEAST_S:
            _texts[text] = took


_truth: list[tuple[str, int]] = []
"""Function and the middle (`time_ns`) of each that took as long as a stall does."""


async def _blocks(block: Callable[[float], None], seconds: float) -> None:
    began = time.time_ns()
    block(seconds)
    took = time.time_ns() - began
    if took >= _STALL_NS:
        _truth.append((block.__name__, began + took // 2))


async def _program(seed: int) -> None:
    dice = random.Random(seed)
    for number in range(STALLS):
        until = time.perf_counter() + dice.uniform(0.0, 0.1)
        busy = dice.random() < 0.5
        while time.perf_counter() < until:  # noqa: ASYNC110  # the loop is to go round
            await asyncio.sleep(0 if busy else 0.01)
        await asyncio.create_task(_blocks(BLOCKS[number % len(BLOCKS)], dice.uniform(_LEAST_S, 2 * _LEAST_S)))


def _run(loop: str, seed: int) -> list[tuple[str, bool]]:
    """(function that blocked, whether its line was told) of each stall; in this process."""
    import taskwatt_asyncio
    from taskwatt.runtime import runtime
    from taskwatt.segments import SegmentReader
    from taskwatt.segments.records import decode
    from taskwatt_asyncio.stalls import Bound

    setattr(Bound, "refill", lambda _, __: True)  # noqa: B010  # every stall is told of
    segment = runtime.become_owner("job")
    assert segment is not None
    taskwatt_asyncio.install()
    factory = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_program(seed))
    found = [decode(one) for one in SegmentReader(segment.path, segment.descriptor).drain()]
    taskwatt_asyncio.uninstall()
    runtime.stop()
    stalls = [one for one in found if isinstance(one, Stall)]
    return [(function, any(_names(one, function, at_ns) for one in stalls)) for function, at_ns in _truth]


def _names(stall: Stall, function: str, at_ns: int) -> bool:
    held = 0 <= at_ns - stall.start_ns <= stall.duration_s * 1e9
    return held and stall.code is not None and stall.code.function == function


if __name__ == "__main__":
    _find_lengths()
    print(json.dumps(_run(sys.argv[1], int(sys.argv[2]))))
