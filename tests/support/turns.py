"""Tests run side by side; those marked `alone` run while no other test does.

What they hold against a truth (a share of CPU, the cause of a stall) others beside them would change.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_SH, LOCK_UN, flock
from pathlib import Path


class Turns:
    """Two locks in files that all processes of one test run open."""

    def __init__(self, folder: Path) -> None:
        self._queue = os.open(folder / "queue", os.O_RDWR | os.O_CREAT, 0o600)
        self._floor = os.open(folder / "floor", os.O_RDWR | os.O_CREAT, 0o600)

    @contextmanager
    def taken(self, *, alone: bool) -> Generator[None]:
        """Wait until this test may run, and let others wait where they must."""
        flock(self._queue, LOCK_EX)  # who waits for others to finish holds it, so that no new ones begin meanwhile
        try:
            flock(self._floor, LOCK_EX if alone else LOCK_SH)
        finally:
            flock(self._queue, LOCK_UN)
        try:
            yield
        finally:
            flock(self._floor, LOCK_UN)
