"""A crowd of tasks that is let loose at once is told from as many that come one after another."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import cast

import pytest

from taskwatt.rules import fan_out
from taskwatt.rules.finding import Evidence, Finding
from taskwatt.windows import CoroutineWindow, LoopWindow, Window
from tests.rules.loop_windows import (
    CONSUMER,
    ENRICH,
    EXPORT,
    HANDLER,
    JOB,
    at,
    delays,
    loop,
    ready,
    uvloop,
    window,
)

GATHERED = replace(JOB, resumed_at=at("app.job"), longest_s=0.09)
FLOODED = loop(6.2, iterations=10, ready=ready(10_000, 9.4, 0.6), ready_max=50_000, delay=delays(s0_1=0.6, s5_0=9.4))
CLEAR = [("clear", "", "")]


def told(seen: Window) -> list[tuple[str, str, str]]:
    return [(finding.verdict, finding.subtype, finding.task) for finding in fan_out.check(seen)]


def said(one: CoroutineWindow, *loops: LoopWindow) -> list[tuple[str, str, str]]:
    return told(window(one, loops=loops))


def test_a_gather_of_too_many_is_found_with_what_an_arrival_waits() -> None:
    assert fan_out.check(window(GATHERED, loops=(FLOODED,))) == (
        Finding(
            cause="fan_out",
            verdict="found",
            process_class="job",
            task="app.job",
            confidence=10 / 14,
            summary=(
                "app.job is started too often at once: 50,000 of them in 10 s made up to 50,000 handles ready in one "
                "iteration (threshold 1,000), and the loop spends 94% of its time in such iterations (threshold 2%); "
                "what arrives meanwhile waits up to 5 s, at job (app.py:12)."
            ),
            evidence=(
                Evidence("ready_max", 50_000, 1_000, 10),
                Evidence("flooded_share", cast(float, pytest.approx(0.94)), 0.02, 10),
                Evidence("started", 50_000, 1_000, 50_000),
                Evidence("lag_p99_s", cast(float, pytest.approx(4.97, abs=0.02)), 0.1, 10),
            ),
            ruled_out=(
                "A busy server: its tasks begin one after another; here 50,000 were ready at once.",
                "A blocking call: the longest step of app.job took 0.09 s.",
            ),
            next_step=fan_out.NEXT_STEP,
            code=GATHERED.resumed_at,
        ),
    )


@pytest.mark.parametrize(
    ("one", "its_loop"),
    [
        pytest.param(HANDLER, loop(9.9, ready=ready(10, 9.9), ready_max=200), id="a saturated server"),
        pytest.param(replace(JOB, started=29_200), loop(3.9, ready=ready(10, 3.9), ready_max=100), id="a semaphore"),
        pytest.param(replace(JOB, started=6_000), loop(5.5, ready=ready(100, 5.5), ready_max=200), id="groups of 200"),
        pytest.param(CONSUMER, replace(FLOODED, ready_max=3_000), id="many connections, and no new tasks"),
        pytest.param(JOB, loop(3.0, ready=ready(1_000, 0.05), ready_max=5_000), id="5,000 once, in 50 ms"),
        pytest.param(JOB, loop(3.0, ready=ready(1_000, 0.199), ready_max=5_000), id="just under 2 % of the time"),
        pytest.param(replace(JOB, started=999), FLOODED, id="just under 1,000 started"),
    ],
)
def test_many_tasks_one_after_another_are_clear(one: CoroutineWindow, its_loop: LoopWindow) -> None:
    assert said(one, its_loop) == CLEAR


def test_a_crowd_is_one_finding_however_many_loops_there_are() -> None:
    other = replace(FLOODED, name="Thread-2", ready=ready(1_000, 1.0), ready_max=2_000)
    assert said(GATHERED, other, FLOODED) == [("found", "", "app.job")]
    (finding,) = fan_out.check(window(GATHERED, loops=(other, FLOODED)))
    assert finding.evidence[0].value == 50_000


LATE = uvloop(4.2, busy_s=6.5, slow_steps=22, slow_s=6.3, late_s=3.4, delay=delays(s0_0005=7.0, s0_5=3.0))


def test_on_uvloop_a_crowd_is_told_by_what_its_short_steps_must_have_filled() -> None:
    crowd = replace(ENRICH, resumed_at=at("app.enrich"))
    assert fan_out.check(window(crowd, EXPORT, loops=(LATE,))) == (
        Finding(
            cause="fan_out",
            verdict="found",
            process_class="job",
            task="app.enrich",
            confidence=10 / 14,
            summary=(
                "app.enrich is started too often at once: 120,000 of them in 10 s kept the loop for 0.1 s and longer "
                "at a stretch in steps of 9 us, in 30% of its time at the least (threshold 2%); what arrives meanwhile "
                "waits up to 0.49 s, at enrich (app.py:12)."
            ),
            evidence=(
                # 3.1 s of steps and 0.36 of turning, less the longest and the 0.2 s of other busy time
                Evidence("flooded_share", cast(float, pytest.approx(0.302)), 0.02, 10),
                Evidence("started", 120_000, 1_000, 120_000),
                Evidence("lag_p99_s", cast(float, pytest.approx(0.49, abs=0.01)), 0.1, 10),
            ),
            ruled_out=(
                "A busy server: its tasks begin one after another; here the loop was kept for 0.49 s by steps of 9 us.",
                "A blocking call: the longest step of app.enrich took 0.24 s.",
            ),
            next_step=fan_out.NEXT_STEP,
            code=crowd.resumed_at,
        ),
    )


UNSURE = [("not_enough_data", "", "")]
BATCHES = replace(ENRICH, steps=237_000, wall_s=1.2, longest_s=0.012, started=79_000)


@pytest.mark.parametrize(
    ("one", "its_loop", "verdict"),
    [
        pytest.param(BATCHES, uvloop(1.3, busy_s=1.7), UNSURE, id="batches of 200"),
        pytest.param(HANDLER, uvloop(9.9), UNSURE, id="a saturated server"),
        pytest.param(
            replace(HANDLER, wall_s=0.4),
            uvloop(5.4, busy_s=8.2, slow_steps=16, slow_s=5.1, late_s=5.1),
            UNSURE,
            id="a protocol callback that computes, beside many tasks",
        ),
        pytest.param(
            replace(ENRICH, wall_s=36.1),
            replace(LATE, busy_s=9.9, slow_s=9.0, late_s=9.0),
            UNSURE,
            id="steps of 100 us",
        ),
        pytest.param(ENRICH, uvloop(0.19), CLEAR, id="a loop that is idle for 98 % of the time"),
        pytest.param(replace(ENRICH, started=999), LATE, CLEAR, id="just under 1,000 started"),
    ],
)
def test_on_uvloop_what_nobody_counts_is_neither_found_nor_ruled_out(
    one: CoroutineWindow, its_loop: LoopWindow, verdict: list[tuple[str, str, str]]
) -> None:
    assert said(one, its_loop) == verdict


def test_on_uvloop_it_is_said_why_nothing_is() -> None:
    def summary(one: CoroutineWindow, its_loop: LoopWindow) -> str:
        return fan_out.check(window(one, loops=(its_loop,)))[0].summary

    assert summary(BATCHES, uvloop(1.7)) == (
        "How many handles are ready is not seen of a loop of uvloop, and its delay does not tell: 79,000 tasks of "
        "app.enrich were started in 10 s (threshold 1,000), at once or one after another."
    )
    assert summary(BATCHES, uvloop(0.19)) == "No crowd: the loop was busy 1.9% of the time (threshold 2%)."
    few = "No crowd: at most 999 tasks of one type were started (threshold 1,000)."
    assert summary(replace(ENRICH, started=999), LATE) == few


def test_a_loop_that_is_seen_does_not_answer_for_one_that_is_not() -> None:
    assert said(BATCHES, loop(3.9, ready=ready(10, 3.9), ready_max=100), replace(uvloop(1.7), name="web")) == UNSURE
    assert said(ENRICH, loop(0.1, busy_s=0.0), replace(LATE, name="web")) == [("found", "", "app.enrich")]


def test_without_a_loop_it_is_clear() -> None:
    assert told(window()) == CLEAR


def test_too_short_a_window_is_not_enough_data() -> None:
    assert told(window(JOB, loops=(FLOODED,), seconds=4.9)) == [("not_enough_data", "", "")]


@pytest.mark.parametrize("seed", range(25))
def test_crowds_and_streams_are_told_apart_under_noise(seed: int) -> None:
    dice = random.Random(seed)
    started = dice.randrange(2_000, 100_000)
    crowd = loop(5.0, ready=ready(1_000, dice.uniform(0.3, 5.0)), ready_max=started)
    stream = loop(5.0, ready=ready(100, dice.uniform(0.3, 5.0)), ready_max=dice.randrange(101, 1_000))
    job = replace(JOB, started=started)
    assert (said(job, crowd), said(job, stream)) == ([("found", "", "app.job")], CLEAR)


def test_a_flood_without_a_crowd_is_told_with_the_condition_that_it_does_not_meet() -> None:
    (finding,) = fan_out.check(window(CONSUMER, loops=(FLOODED,)))
    assert finding.verdict == "clear"
    assert finding.summary == (
        "At most 50,000 handles were ready in one iteration, and 94.0% of the time went into those with more than "
        "1,000 (threshold 2%); but at most 1 task of one type was started (threshold 1,000): connections or timers, "
        "and no crowd."
    )
