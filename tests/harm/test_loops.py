"""A program with an event loop prints, warns and ends with the agent as it does without, by either carrier."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.harm.loop_programs import PROGRAMS
from tests.support.processes import REPOSITORY, clean_environ

CARRIERS = ("0", "auto")


class Ended(NamedTuple):
    code: int
    printed: str
    complained: str


def run(name: str, loop: str, **environ: str) -> Ended:
    done = subprocess.run(
        [sys.executable, "-m", "tests.harm.loop_programs", name, loop],
        cwd=REPOSITORY,
        env=clean_environ(PYTHONHASHSEED="0", **environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    complained = plain(done.stderr)
    if name == "never_closed":  # at the interpreter's end, in the order in which it happens to clear its modules
        complained = "".join(sorted(complained.splitlines(keepends=True)))
    return Ended(done.returncode, plain(done.stdout), complained)


@cache
def without(name: str, loop: str) -> Ended:
    return run(name, loop)


FORK = re.compile(r"[^\n]*is multi-threaded, use of fork[^\n]*\n[^\n]*\n")
STACK = re.compile(r"(Object created at[^\n]*\n)(?:  [^\n]*\n)*?(  File [^\n]*\n    [^\n]*\n)(?=\S|$)")


def plain(text: str) -> str:
    """Without addresses and times; of a stack in debug mode, which shows the loop's frames and ours, where it ends.

    Python 3.12 warns who forks a process with threads, and an agent is one.
    """
    text = FORK.sub("", text)
    text = STACK.sub(r"\1\2", text)
    text = re.sub(r"when=[0-9.]+", "when=<time>", text)
    return re.sub(r"took \d+\.\d+ seconds", "took <seconds>", re.sub(r"0x[0-9a-f]+", "<address>", text))


@pytest.mark.parametrize("accelerator", CARRIERS, ids=["python", "accelerator"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_does_what_it_does_without(name: str, loop: str, accelerator: str, tmp_path: Path) -> None:
    if accelerator == "auto" and importlib.util.find_spec("taskwatt_fast") is None:
        pytest.skip("the accelerator is not built")
    found = run(name, loop, TASKWATT_ENABLED="1", TASKWATT_DIR=str(tmp_path), TASKWATT_ACCELERATOR=accelerator)
    assert found == without(name, loop)
