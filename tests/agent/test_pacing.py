"""When a second passes without a tick, and what a tick ends with: by a clock that is set by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from taskwatt.pacing import QUIET_CORES, QUIET_EVERY_S, QUIET_JUDGED_S, QUIET_SLICES, Pace, Step

LONGEST_S = 60
QUIET: Mapping[int, float] = {1: QUIET_CORES / 2, 2: QUIET_CORES / 2}
LONG = int(LONGEST_S + QUIET_JUDGED_S) + 2


class Seconds:
    """A pace, and a tick in each second that is not rested."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.now = 1000.0
        self.stirred = False
        self.pace = Pace(LONGEST_S, lambda: self.cpu_s)

    def passing(self, seconds: int, *, happened: bool = False, cores: Mapping[int, float] = QUIET) -> list[Step | None]:
        """What the tick of each of so many seconds ended with; None for a second that was rested."""
        steps: list[Step | None] = []
        for _ in range(seconds):
            self.now += 1.0
            if self.pace.rests(lambda: self.stirred):
                steps.append(None)
                continue
            self.pace.begin()
            steps.append(self.pace.step(self.now, happened=happened, cores=cores))
        return steps


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


def test_the_longest_window_is_judged_every_second_before_anything_is_quiet(seconds: Seconds) -> None:
    assert seconds.passing(LONGEST_S + 1) == ["judge"] * (LONGEST_S + 1)


def test_a_quiet_agent_ticks_writes_and_judges_each_at_its_own_pace(seconds: Seconds) -> None:
    seconds.passing(LONG)
    rounds = 5
    span = int(QUIET_JUDGED_S) * rounds
    ticks, written = span // QUIET_SLICES, span // int(QUIET_EVERY_S)
    expected = {None: span - ticks, "judge": rounds, "write": written - rounds, "touch": ticks - written}
    assert Counter(seconds.passing(span)) == expected


@pytest.mark.parametrize(
    ("happened", "cores"),
    [
        pytest.param(True, QUIET, id="something happened"),
        pytest.param(False, {1: QUIET_CORES, 2: QUIET_CORES / 2}, id="CPU is burned"),
        pytest.param(False, {1: 0.0}, id="a process went"),
        pytest.param(False, {1: 0.0, 3: 0.0}, id="one went and another came"),
    ],
)
def test_what_is_no_longer_quiet_is_judged_every_second_until_a_whole_window_was(
    seconds: Seconds, happened: bool, cores: Mapping[int, float]
) -> None:
    seconds.passing(LONG)
    while seconds.passing(1, happened=happened, cores=cores) == [None]:
        pass
    again = dict.fromkeys(cores, 0.0)
    assert seconds.passing(LONGEST_S, cores=again) == ["judge"] * LONGEST_S
    assert None in seconds.passing(LONGEST_S, cores=again)


def test_a_child_that_stirs_is_ticked_for_in_the_same_second(seconds: Seconds) -> None:
    seconds.passing(LONG)
    seconds.stirred = True
    assert None not in seconds.passing(10)


def test_cpu_of_this_process_is_held_against_the_seconds_in_which_it_was_used(seconds: Seconds) -> None:
    seconds.passing(LONG)
    while seconds.passing(1) == [None]:
        pass
    seconds.cpu_s += QUIET_CORES
    assert seconds.passing(1) == [None]
    seconds.cpu_s += QUIET_CORES * 1.5
    assert None not in seconds.passing(1)


def test_a_tick_that_failed_is_followed_by_another(seconds: Seconds) -> None:
    seconds.passing(LONG)
    while seconds.passing(1) == [None]:
        pass
    seconds.pace.begin()
    assert None not in seconds.passing(1)


def test_a_tick_is_told_how_many_seconds_were_rested_before_it(seconds: Seconds) -> None:
    seconds.passing(LONG)
    while seconds.passing(1) == [None]:
        pass
    assert seconds.passing(QUIET_SLICES - 1) == [None] * (QUIET_SLICES - 1)
    assert [seconds.pace.begin(), seconds.pace.begin()] == [QUIET_SLICES - 1, 0]
