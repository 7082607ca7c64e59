"""Small files of /proc, read without giving the interpreter away where the accelerator is.

Whoever gives it away waits for it again, some milliseconds beside a busy event loop, and meanwhile each system call of
that loop has to wake the one who waits. A watchdog and an agent that read a few files a second by `os.read` so cost
the loop more than they used themselves. The kernel makes these files up in a few microseconds; none of them waits for
a disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from taskwatt import accounts

_SIZE = 65536
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)


def _read_in_python(path: Path | str) -> bytes:
    try:
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError):
        return b""
    try:
        return os.read(descriptor, _SIZE)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _read_open_in_python(descriptor: int) -> bytes:
    try:
        return os.pread(descriptor, _SIZE, 0)
    except OSError:
        return b""


read: Callable[[Path | str], bytes] = _read_in_python
"""What is in a file, up to 64 KiB; empty when it cannot be read."""
read_open: Callable[[int], bytes] = _read_open_in_python
"""The same of an open descriptor, from the beginning."""
if accounts.IN_C:
    read, read_open = accounts.part_in_c.read_file, accounts.part_in_c.read_open_file
