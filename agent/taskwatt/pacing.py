"""How often an agent ticks, judges and writes: every second while anything happens, seldom while nothing does.

Most workers wait most of the time, and an agent that says each second that nothing happened would be what they spend.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, Literal

QUIET_CORES: Final = 0.02
"""Below this no finding is worth a word, and an idle worker stays far below it."""
QUIET_SLICES: Final = 3
"""A tick in so many seconds, until one in which a child did anything or this process used CPU."""
QUIET_EVERY_S: Final = 6.0
"""How often a quiet worker's document is written: less than half of what report.freshness calls stale."""
QUIET_JUDGED_S: Final = 18.0
"""How often it is judged: nothing is there that could have changed."""

Step = Literal["judge", "write", "touch"]
"""What a tick ends with: a judgement that is written; the last one written again; no more than a sign of life."""


class Pace:
    """Of one agent, which calls it from one thread at a time."""

    def __init__(self, longest_s: float, cpu_s: Callable[[], float] = time.process_time) -> None:
        """`longest_s`: of the longest window. `cpu_s`: CPU seconds of this process until now."""
        self._longest_s, self._cpu_s = longest_s, cpu_s
        self._slices = 1
        """Seconds, each a slice of the windows, since the last tick."""
        self._resting = False
        """Did the last tick find nothing to say?"""
        self._cpu_before_s = 0.0
        """At the last tick."""
        self._seen: AbstractSet[int] | None = None
        """Processes that were seen by the tick before; None before the first, which is busy."""
        self._busy_at = self._judge_at = self._write_at = 0.0

    def rests(self, stirred: Callable[[], bool]) -> bool:
        """A second has passed: may it pass without a tick? `stirred`: did a child begin or end anything since the last?

        It is asked last, and only where the answer depends on it.
        """
        if not self._resting or self._slices >= QUIET_SLICES:
            return False
        if self._cpu_s() - self._cpu_before_s > QUIET_CORES * self._slices or stirred():
            return False
        self._slices += 1
        return True

    def begin(self) -> int:
        """A tick begins: how many seconds before this one passed without a tick. One that fails is not rested after."""
        skipped, self._slices, self._resting = self._slices - 1, 1, False
        self._cpu_before_s = self._cpu_s()
        return skipped

    def step(self, now: float, *, happened: bool, cores: Mapping[int, float]) -> Step:
        """What the tick at `now` (monotonic seconds) ends with.

        `happened`: did anything run, end, or stand to be told? `cores`: CPUs in use by process id. Judging would say
        what it said the last time where there was nothing of it within the longest window.
        """
        if happened or cores.keys() != self._seen or sum(cores.values()) > QUIET_CORES:
            self._busy_at = now
        self._seen = cores.keys()
        self._resting = now - self._busy_at > self._longest_s
        if not self._resting or now >= self._judge_at:
            self._judge_at, self._write_at = now + QUIET_JUDGED_S, now + QUIET_EVERY_S
            return "judge"
        if now >= self._write_at:
            self._write_at = now + QUIET_EVERY_S
            return "write"
        return "touch"
