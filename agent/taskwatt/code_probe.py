"""Names the line of an attempt that never returns, from outside of its process.

An endless loop never comes back to the hook, so nobody inside can be asked. py-spy reads the process's memory; it is an
optional extra, needs the system's permission to trace, and is asked not to pause the process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from taskwatt.code_site import Line, choose
from taskwatt.observations import CodeSite

NOT_INSTALLED: Final = "install taskwatt[pyspy] to see the line of an attempt that does not return"
NOT_PERMITTED: Final = "the system does not permit one process to read another's stack (ptrace)"
NOTHING_SEEN: Final = "no Python code was seen on the CPU"
FAILED: Final = "py-spy could not read the process"

DUMPS: Final = 6
INTERVAL_S: Final = 0.15
DUMP_TIMEOUT_S: Final = 5.0
TOTAL_S: Final = 12.0

Dump: TypeAlias = Callable[[int], "Sequence[Mapping[str, Any]] | str"]


def probe(pid: int, task: str = "", dump: Dump | None = None) -> CodeSite | str:
    """Where the main thread of another process of ours is, or a phrase that says why that is not known.

    Takes about a second, at most 12 + 5, and blocks: not to be called on a loop. `dump` gives py-spy's list of threads,
    or a reason.
    """
    dump = dump or _dump
    until = time.monotonic() + TOTAL_S
    lines: Counter[Line] = Counter()
    reason = NOTHING_SEEN
    for number in range(DUMPS):
        if number:
            time.sleep(INTERVAL_S)
        threads = dump(pid)
        if isinstance(threads, str):
            reason = threads
            if threads in (NOT_INSTALLED, NOT_PERMITTED):
                break
        else:
            line = main_line(threads, pid)
            if line is not None:
                lines[line] += 1
        if time.monotonic() > until:
            break
    return _site(task, lines) if lines else reason


def executable() -> str | None:
    """py-spy beside this interpreter, or on the PATH."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("py-spy")


def main_line(threads: Sequence[Mapping[str, Any]], pid: int) -> Line | None:
    """The line of the main thread, when it is on the CPU."""
    for thread in threads:
        if thread.get("os_thread_id") == pid or thread.get("thread_name") == "MainThread":
            if not (thread.get("active") or thread.get("owns_gil")):
                return None
            return choose(
                Line(str(frame.get("name")), str(frame.get("filename")), int(frame.get("line") or 0))
                for frame in thread.get("frames") or ()
            )
    return None


def _site(task: str, lines: Counter[Line]) -> CodeSite:
    """The hottest line of the hottest function; a loop of several lines is one place."""
    functions: Counter[tuple[str, str]] = Counter()
    for line, count in lines.items():
        functions[line.file, line.function] += count
    best = functions.most_common(1)[0][0]
    line, count = next(item for item in lines.most_common() if (item[0].file, item[0].function) == best)
    total = lines.total()
    return CodeSite(task, line.function, line.file, line.line, count / total, total)


def _dump(pid: int) -> Sequence[Mapping[str, Any]] | str:
    program = executable()
    if program is None:
        return NOT_INSTALLED
    command = [program, "dump", "--pid", str(pid), "--json", "--nonblocking", "--full-filenames"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=DUMP_TIMEOUT_S, check=False
        )
        if done.returncode:
            return _refusal(done.stderr.decode("utf-8", "replace"))
        threads = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return FAILED
    return cast(list[dict[str, Any]], threads) if isinstance(threads, list) else FAILED


def _refusal(message: str) -> str:
    text = message.lower()
    refused = ("permission denied", "operation not permitted", "eperm", "requires root", "elevated permissions")
    return NOT_PERMITTED if any(phrase in text for phrase in refused) else FAILED
