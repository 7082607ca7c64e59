"""What an arrival waits for is told from how busy a loop is, and laid at the right door."""

from __future__ import annotations

import random
from dataclasses import replace
from math import nan
from typing import cast

import pytest

from taskwatt.observations import CodeSite, Stall, StallCause
from taskwatt.rules import loop_blocked
from taskwatt.rules.finding import Evidence, Finding
from taskwatt.windows import CoroutineWindow, HostWindow, InterpreterWindow, LoopWindow, Window
from tests.rules.loop_windows import COLLECT, ENRICH, EXPORT, HANDLER, JOB, delays, loop, ready, uvloop, window

SITE = CodeSite("app.charge", "charge", "app.py", 31, 1.0, 33)
IMPORTS = CoroutineWindow("app.main", steps=3, cpu_s=0.3, wall_s=0.4, longest_s=0.35)


def stall(cause: StallCause, task: str = "app.charge", code: CodeSite | None = SITE) -> Stall:
    return Stall("MainThread", task, cause, 0, 0.26, 0.0, 0.0, 0.0, code, "", bytes(16), bytes(8), bytes(16), bytes(8))


def blocked(cause: StallCause = "blocking", number: int = 33, cpu_s: float = 0.3, **figures: object) -> LoopWindow:
    """Held for 0.25 s out of every 0.3."""
    given: dict[str, object] = {
        "busy_s": 8.3,
        "idle_s": 1.7,
        "iterations": 70,
        "run_delay_s": 0.2,
        "delay": delays(s0_0005=1.7, s0_1=3.3, s0_25=5.0),
        "slow_steps": number,
        "slow_s": 0.25 * number,
        "stalls": {cause: (min(number, 5), 0.25 * min(number, 5))},
        "worst": stall(cause),
        **figures,
    }
    return loop(cpu_s, **given)


def told(seen: Window) -> list[tuple[str, str, str]]:
    return [(finding.verdict, finding.subtype, finding.task) for finding in loop_blocked.check(seen)]


def said(*loops: LoopWindow) -> list[tuple[str, str, str]]:
    return told(window(HANDLER, loops=loops))


CLEAR = [("clear", "", "")]


def test_a_loop_that_sleeps_is_found_with_the_line_that_holds_it() -> None:
    assert loop_blocked.check(window(HANDLER, loops=(blocked(),))) == (
        Finding(
            cause="loop_blocked",
            subtype="blocking",
            verdict="found",
            process_class="job",
            task="app.charge",
            confidence=10 / 14,
            summary=(
                "app.charge holds the event loop in a call that waits: one arrival in a hundred waits for 0.25 s and "
                "longer (threshold 0.1 s), and 82% of the time it is held, 33 times, 0.26 s at the longest, at charge "
                "(app.py:31)."
            ),
            evidence=(
                Evidence("lag_p99_s", cast(float, pytest.approx(0.248)), 0.1, 10),
                Evidence("stalls", 33, 3, 33),
                Evidence("utilization", cast(float, pytest.approx(0.83)), 1.0, 70),
                Evidence("loop_cpus", cast(float, pytest.approx(0.03)), 1.0, 10),
            ),
            ruled_out=(
                "Its own computing: the loop's thread used 0.03 CPUs.",
                "A lack of CPU: it waited 0.02 s of each second for one.",
                "Too many tasks at once: 3 handles were ready (threshold 1,000).",
            ),
            next_step=loop_blocked.CAUSES["blocking"][1],
            code=SITE,
        ),
    )


@pytest.mark.parametrize("cause", ["blocking", "own_cpu", "gil", "starved", "unknown"])
def test_each_cause_is_told(cause: StallCause) -> None:
    assert said(blocked(cause)) == [("found", cause, "app.charge")]


def test_every_step_counts_however_few_left_a_record() -> None:
    """Records are bounded to one in two seconds of a route: five, where thirty steps held the loop for 45 %."""
    lag = delays(s0_0005=5.5, s0_1=3.0, s0_15=1.5)
    often = blocked("own_cpu", 30, slow_s=4.5, stalls={"own_cpu": (5, 0.75)}, delay=lag)
    (finding,) = loop_blocked.check(window(HANDLER, loops=(often,)))
    assert ", and 45% of the time it is held, 30 times, 0.26 s at the longest, " in finding.summary
    assert finding.evidence[1] == Evidence("stalls", 30, 3, 30)
    assert said(replace(often, stalls={"own_cpu": (1, 0.15)})) == [("found", "own_cpu", "app.charge")]


@pytest.mark.parametrize(
    ("stalls", "cpu_s", "run_delay_s", "cause"),
    [
        pytest.param({"starved": (1, 0.3)}, 3.4, 0.9, "own_cpu", id="one step met a neighbour, and its thread ran"),
        pytest.param({"starved": (2, 0.6)}, 1.9, 1.6, "own_cpu", id="two did, and its thread ran for longer"),
        pytest.param({"own_cpu": (1, 0.3)}, 0.9, 3.4, "starved", id="one step computed, and its thread waited"),
        pytest.param({"starved": (5, 1.5)}, 3.4, 0.9, "own_cpu", id="five did, and it waited for less than they took"),
        pytest.param({"starved": (5, 1.5)}, 2.3, 1.6, "starved", id="five did, and it waited for as long"),
        pytest.param(
            {"blocking": (5, 1.5)}, 3.4, 0.9, "own_cpu", id="no time is left in which a call could have waited"
        ),
        pytest.param({"blocking": (5, 1.5)}, 2.4, 0.2, "blocking", id="there is, though it computes more"),
        pytest.param({"blocking": (1, 1.5)}, 2.4, 0.2, "blocking", id="a call that waited is no neighbour's doing"),
        pytest.param({"gil": (5, 1.5)}, 2.4, nan, "gil", id="nobody knows how long it waited"),
        pytest.param({"unknown": (5, 1.5)}, 3.4, 0.9, "own_cpu", id="records tell nothing"),
    ],
)
def test_what_the_thread_did_outweighs_few_records_and_those_it_belies(
    stalls: dict[StallCause, tuple[int, float]], cpu_s: float, run_delay_s: float, cause: str
) -> None:
    """Of a loop that was busy for 4.4 s, 2.4 of them in ten slow steps."""
    held = blocked(
        number=10, slow_s=2.4, busy_s=4.4, cpu_s=cpu_s, run_delay_s=run_delay_s, stalls=stalls, worst=stall("starved")
    )
    assert said(held) == [("found", cause, "app.charge")]


def test_few_steps_are_not_shown_as_evidence() -> None:
    (finding,) = loop_blocked.check(window(HANDLER, loops=(blocked(number=1, delay=delays(s0_0005=1.0, s5_0=9.0)),)))
    assert finding.evidence[1] == Evidence("lag_p95_s", cast(float, pytest.approx(4.86, abs=0.01)), 0.1, 10)


def test_one_step_is_told_as_one() -> None:
    (finding,) = loop_blocked.check(window(HANDLER, loops=(blocked(number=1, delay=delays(s0_0005=1.0, s5_0=9.0)),)))
    assert ", and 90% of the time it is held, once, 0.26 s at the longest, " in finding.summary
    (finding,) = loop_blocked.check(window(HANDLER, loops=(blocked(number=1, delay=delays(s0_0005=9.6, s0_25=0.4)),)))
    assert ", but only 1 step held it (threshold 3); " in finding.summary


def test_the_cause_of_most_of_the_time_is_told() -> None:
    mixed = blocked(stalls={"own_cpu": (9, 1.1), "blocking": (3, 4.0), "gil": (1, 0.1)}, worst=stall("blocking"))
    assert said(mixed) == [("found", "blocking", "app.charge")]


def test_a_loop_that_is_held_for_seconds_needs_no_three_stalls() -> None:
    lag = delays(s0_0005=1.0, s1_0=1.0, s5_0=8.0)
    assert said(blocked(number=1, delay=lag)) == [("found", "blocking", "app.charge")]


def test_without_a_stack_the_longest_type_is_named() -> None:
    unseen = blocked(number=0, worst=None, stalls={})
    seen = window(HANDLER, replace(IMPORTS, name="app.charge"), loops=(unseen,))
    assert told(seen) == [("found", "unknown", "app.charge")]
    (finding,) = loop_blocked.check(seen)
    assert finding.code is None


def test_many_short_steps_are_told_as_such() -> None:
    crowded = blocked(number=0, worst=None, stalls={}, ready=ready(1_000, 8.0), ready_max=3_000)
    connections = replace(HANDLER, started=0, completed=0)
    assert told(window(connections, loops=(crowded,))) == [("found", "many_steps", "")]


@pytest.mark.parametrize(
    "its_loop",
    [
        pytest.param(loop(9.9, delay=delays(s0_0005=2.0, s0_0025=8.0)), id="a saturated server"),
        pytest.param(loop(0.01), id="an idle loop"),
        pytest.param(blocked(number=2, delay=delays(s0_0005=9.6, s0_25=0.4)), id="an import at the start"),
        pytest.param(blocked(delay=delays(s0_0005=1.7, s0_1=8.3)), id="just under 100 ms"),
        pytest.param(blocked(delay=delays(s0_0005=9.91, s0_25=0.09)), id="less than one arrival in a hundred"),
    ],
)
def test_a_loop_that_answers_is_clear_however_busy_it_is(its_loop: LoopWindow) -> None:
    assert said(its_loop) == CLEAR


def test_what_says_more_of_the_same_delay_has_the_word() -> None:
    flooded = blocked(ready=ready(10_000, 5.0), ready_max=50_000)
    assert told(window(JOB, loops=(flooded,))) == CLEAR
    assert told(window(COLLECT, loops=(blocked("own_cpu", worst=stall("own_cpu", COLLECT.name)),))) == CLEAR
    assert told(window(replace(COLLECT, longest_s=0.2), loops=(blocked("own_cpu", worst=None),))) == CLEAR
    hogged = InterpreterWindow(1.0, 0.02, 300, 0.5, "hog")
    assert told(window(HANDLER, loops=(blocked("gil"),), interpreter=hogged)) == CLEAR
    assert told(window(HANDLER, loops=(blocked("blocking"),), interpreter=hogged)) == [
        ("found", "blocking", "app.charge")
    ]


def test_a_request_is_named_by_its_route_and_explained_by_its_type() -> None:
    routed = stall("own_cpu", COLLECT.name)._replace(row="GET /report/{id}")
    held = blocked("own_cpu", worst=routed)
    assert told(window(HANDLER, loops=(held,))) == [("found", "own_cpu", "GET /report/{id}")]
    (finding,) = loop_blocked.check(window(HANDLER, loops=(held,)))
    assert finding.summary.startswith("GET /report/{id} holds the event loop by its own computing: ")
    assert told(window(COLLECT, loops=(held,))) == CLEAR
    elsewhere = blocked("own_cpu", worst=routed._replace(task="app.other"))
    assert told(window(COLLECT, loops=(elsewhere,))) == [("found", "own_cpu", "GET /report/{id}")]


LATE = uvloop(
    4.2,
    busy_s=6.5,
    slow_steps=22,
    slow_s=6.3,
    late_s=3.4,
    delay=delays(s0_0005=7.0, s0_5=3.0),
    stalls={"own_cpu": (5, 1.0)},
    worst=stall("own_cpu", "", None),
)
CROWD = replace(ENRICH, started=0, completed=0, wall_s=5.0)
"""Of connections: nobody starts them in the window, so that it is no fan-out."""


def test_on_uvloop_many_short_steps_are_told_as_such() -> None:
    assert told(window(CROWD, loops=(LATE,))) == [("found", "many_steps", "")]
    (finding,) = loop_blocked.check(window(CROWD, loops=(LATE,)))
    assert finding.summary.startswith("Something holds the event loop by many short steps: ")
    assert told(window(ENRICH, EXPORT, loops=(LATE,))) == CLEAR  # fan_out says it


def test_on_uvloop_what_is_not_seen_is_laid_at_nobody_s_door() -> None:
    """Late by a protocol callback: short steps beside it fill nothing, and one that was long once was not it."""
    beside = replace(CROWD, wall_s=0.4, steps=48_000)
    (finding,) = loop_blocked.check(window(beside, loops=(replace(LATE, worst=stall("own_cpu", "")),)))
    assert (finding.subtype, finding.task, finding.code) == ("own_cpu", "", SITE)
    assert finding.ruled_out == ("A lack of CPU: it waited 0.00 s of each second for one.",)
    starved = replace(LATE, stalls={"starved": (5, 1.0)}, run_delay_s=2.2, cpu_s=1.0)
    assert told(window(CROWD, loops=(starved,))) == [("found", "starved", "")]


def test_a_host_that_withholds_the_cpu_has_the_word() -> None:
    host = HostWindow(effective_cpus=2, own_cpu=0.2, own_run_delay=0.8)
    starving = blocked("starved", stalls={}, worst=None, run_delay_s=7.0)
    seen = window(HANDLER, replace(IMPORTS, name="app.charge"), loops=(starving,))
    assert told(replace(seen, host=host)) == CLEAR
    assert told(seen) == [("found", "starved", "app.charge")]
    computing = stall("starved")._replace(duration_s=0.9, cpu_s=0.15)
    seen = window(HANDLER, loops=(replace(starving, worst=computing, stalls={"starved": (9, 7.0)}),))
    assert told(replace(seen, host=host)) == [("found", "starved", "app.charge")]


@pytest.mark.parametrize(
    ("cpu_s", "run_delay_s", "cause"),
    [
        pytest.param(5.3, 1.0, "own_cpu", id="it computes"),
        pytest.param(1.2, 7.0, "starved", id="it waits for a CPU"),
        pytest.param(0.2, 0.1, "unknown", id="it does neither"),
        pytest.param(0.2, nan, "unknown", id="nobody knows"),
    ],
)
def test_without_a_stall_the_thread_tells_the_cause(cpu_s: float, run_delay_s: float, cause: str) -> None:
    untold = blocked(cpu_s=cpu_s, run_delay_s=run_delay_s, number=0, stalls={}, worst=None)
    seen = window(HANDLER, replace(IMPORTS, name="app.charge"), loops=(untold,))
    assert told(seen) == [("found", cause, "app.charge")]


def test_one_loop_of_two_is_enough() -> None:
    assert said(loop(0.01), replace(blocked(), name="Thread-2")) == [("found", "blocking", "app.charge")]


def test_an_unknown_run_queue_delay_is_not_told() -> None:
    (finding,) = loop_blocked.check(window(HANDLER, loops=(blocked(run_delay_s=nan),)))
    assert finding.ruled_out == (
        "Its own computing: the loop's thread used 0.03 CPUs.",
        "Too many tasks at once: 3 handles were ready (threshold 1,000).",
    )


def test_without_a_loop_it_is_clear() -> None:
    assert told(window()) == CLEAR


def test_too_short_a_window_is_not_enough_data() -> None:
    assert told(window(HANDLER, loops=(blocked(),), seconds=4.9)) == [("not_enough_data", "", "")]


@pytest.mark.parametrize("seed", range(25))
def test_blocked_and_busy_loops_are_told_apart_under_noise(seed: int) -> None:
    dice = random.Random(seed)
    late = dice.uniform(0.3, 9.0)
    held = blocked(number=dice.randrange(3, 40), delay=delays(s0_0005=10 - late, s0_25=late))
    busy = loop(9.9, delay=delays(s0_0005=10 - late, s0_05=late))
    assert (said(held), said(busy)) == ([("found", "blocking", "app.charge")], CLEAR)
