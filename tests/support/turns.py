"""Tests run side by side; those marked `alone` run while no other test does.

What they hold against a truth (a share of CPU, the cause of a stall) others beside them would change. Who runs alone
waits until the others' tests have ended, so such tests follow each other without giving the floor away in between.
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
        self._kept = False
        """Is the floor still ours alone, from the test before?"""

    @contextmanager
    def taken(self, *, alone: bool, alone_next: bool = False) -> Generator[None]:
        """Wait until this test may run, and let others wait where they must. `alone_next`: so will the one after it."""
        if not (self._kept and alone):
            self._take(LOCK_EX if alone else LOCK_SH)
        try:
            yield
        finally:
            self._kept = alone and alone_next
            if not self._kept:
                flock(self._floor, LOCK_UN)

    def _take(self, how: int) -> None:
        if self._kept:  # the test that was to follow was not run
            flock(self._floor, LOCK_UN)
            self._kept = False
        flock(self._queue, LOCK_EX)  # who waits for others to finish holds it, so that no new ones begin meanwhile
        try:
            flock(self._floor, how)
        finally:
            flock(self._queue, LOCK_UN)
