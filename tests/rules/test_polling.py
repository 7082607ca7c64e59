"""Looking for what is not there is told from waiting for it, from having much to do, and from a clock."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import cast

import pytest

from taskwatt.rules import polling
from taskwatt.rules.finding import Evidence, Finding
from taskwatt.windows import CoroutineWindow, Window
from tests.rules.loop_windows import (
    CONSUMER,
    CRUNCH,
    HANDLER,
    HTTP_POLL,
    JOB,
    RECONNECT,
    REDIS_POLL,
    SCHEDULER,
    SLEEP_POLL,
    SPIN,
    loop,
    window,
)

TIMER = CoroutineWindow("asyncio.timeouts.Timeout._on_timeout", kind="timer", steps=958, cpu_s=0.016)
CLEAR = [("clear", "", "")]


def told(seen: Window) -> list[tuple[str, str, str]]:
    return [(finding.verdict, finding.subtype, finding.task) for finding in polling.check(seen)]


def said(*coroutines: CoroutineWindow) -> list[tuple[str, str, str]]:
    return told(window(*coroutines))


def test_a_poll_is_found_with_the_timer_and_the_turning_that_it_costs() -> None:
    assert polling.check(window(REDIS_POLL, TIMER, loops=(loop(0.155),))) == (
        Finding(
            cause="polling",
            subtype="empty_read",
            verdict="found",
            process_class="job",
            task="app.listen",
            wasted_cores=cast(float, pytest.approx(0.0155)),
            confidence=cast(float, pytest.approx(200 / 204)),
            summary=(
                "app.listen polls: it wakes 96 times a second, 100% of its waits last 50 ms at the most (threshold "
                "50%), and 100% of the looks met it in reads that a timeout ended with nothing (threshold 75%), "
                "burning 0.015 of 2 CPUs (threshold 0.005), at listen (app.py:12)."
            ),
            evidence=(
                Evidence("short_wait_share", cast(float, pytest.approx(0.98, abs=0.01)), 0.5, 200),
                Evidence("empty_wait_share", 1.0, 0.75, 300),
                Evidence("wakes_per_s", 96.0, 10.0, 960),
                Evidence("cpu_per_step_us", cast(float, pytest.approx(64.6, abs=0.1)), 1000.0, 960),
                Evidence("wasted_cores", cast(float, pytest.approx(0.0155)), 0.005, 960),
            ),
            ruled_out=(polling.CONSUMER.format("reads that a timeout ended with nothing"),),
            next_step=polling.NEXT_STEPS["empty_read"],
            code=REDIS_POLL.resumed_at,
        ),
    )


@pytest.mark.parametrize(
    ("one", "subtype"),
    [
        pytest.param(replace(REDIS_POLL, steps=446_881, cpu_s=5.1), "empty_read", id="without a pause at all"),
        pytest.param(replace(REDIS_POLL, timed_out=138, sleeping=162), "empty_read", id="reads, then sleeps"),
        pytest.param(SLEEP_POLL, "sleep", id="a sleep of 1 ms"),
        pytest.param(HTTP_POLL, "sleep", id="a request every 10 ms"),
    ],
)
def test_each_shape_is_found_under_its_name(one: CoroutineWindow, subtype: str) -> None:
    assert said(one) == [("found", subtype, one.name)]


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(HANDLER, id="a saturated server"),
        pytest.param(CONSUMER, id="a consumer that always has work"),
        pytest.param(replace(CONSUMER, steps=1_800, cpu_s=0.37), id="a consumer of 180 messages a second"),
        pytest.param(SCHEDULER, id="a scheduler that wakes every 100 ms"),
        pytest.param(JOB, id="jobs that sleep once and end"),
        pytest.param(CRUNCH, id="a computing coroutine"),
        pytest.param(replace(SLEEP_POLL, steps=600, cpu_s=1.2), id="a frame of 2 ms, 60 times a second"),
        pytest.param(SPIN, id="a spin, which is hot_loop's"),
        pytest.param(replace(RECONNECT, sleeping=300), id="a reconnect, which is hot_loop's"),
        pytest.param(replace(SLEEP_POLL, sleeping=119), id="just under 40 % asleep"),
        pytest.param(replace(SLEEP_POLL, short_waits=100), id="half of the waits, and no more"),
        pytest.param(replace(SLEEP_POLL, looks=11, sleeping=11), id="too few looks"),
        pytest.param(replace(SLEEP_POLL, last=200, woke=200), id="a producer with a pace"),
        pytest.param(replace(SLEEP_POLL, last=200, woke=40), id="a fifth of its steps wake others"),
        pytest.param(replace(SLEEP_POLL, completed=90), id="just under 100 steps to an end"),
    ],
)
def test_what_waits_or_works_is_clear(one: CoroutineWindow) -> None:
    assert said(one) == CLEAR


def test_just_under_a_noticeable_waste_is_clear() -> None:
    assert told(window(SLEEP_POLL, loops=(loop(0.099),))) == CLEAR
    assert told(window(SLEEP_POLL, loops=(loop(0.101),))) == [("found", "sleep", "app.poll")]
    short = replace(REDIS_POLL, cpu_s=0.03)
    assert told(window(short, loops=(loop(0.049),))) == CLEAR
    assert told(window(short, loops=(loop(0.051),))) == [("found", "empty_read", "app.listen")]


def test_the_turning_is_shared_with_what_else_the_loop_serves() -> None:
    (finding,) = polling.check(window(SLEEP_POLL, replace(HANDLER, steps=8_928 * 3, cpu_s=1.0), loops=(loop(1.878),)))
    assert finding.wasted_cores == pytest.approx((0.078 + 0.8 / 4) / 10)


def test_that_it_wakes_nobody_is_told_where_it_is_known() -> None:
    (finding,) = polling.check(window(replace(SLEEP_POLL, last=150, woke=3)))
    assert finding.ruled_out == (
        polling.CONSUMER.format("short sleeps"),
        "A producer with a pace: 2% of 150 steps made something ready (threshold 20%).",
    )


def test_without_a_coroutine_it_is_clear() -> None:
    assert told(window()) == CLEAR


def test_too_short_a_window_is_not_enough_data() -> None:
    assert told(window(SLEEP_POLL, seconds=4.9)) == [("not_enough_data", "", "")]


@pytest.mark.parametrize("seed", range(25))
def test_polls_and_listeners_are_told_apart_under_noise(seed: int) -> None:
    dice = random.Random(seed)
    steps = dice.randrange(1_000, 20_000)
    looks = dice.randrange(60, 400)
    poll = replace(
        SLEEP_POLL, steps=steps, cpu_s=steps * 1e-5, looks=looks, sleeping=int(looks * dice.uniform(0.5, 1.0))
    )
    listener = replace(poll, name="app.hear", sleeping=int(looks * dice.uniform(0.0, 0.2)))
    assert (said(poll), said(listener)) == ([("found", "sleep", "app.poll")], CLEAR)


OFTEN = replace(SLEEP_POLL, steps=50_000, cpu_s=0.4)


@pytest.mark.parametrize(
    ("one", "why"),
    [
        pytest.param(
            replace(JOB, steps=450_000, started=150_000, completed=150_000),
            "it ends once in 3 steps (threshold 100)",
            id="jobs that sleep once",
        ),
        pytest.param(
            replace(OFTEN, short_waits=90),
            "it is not sure that most of its waits are short: 45% of 200 last 50 ms at the most (threshold 50%)",
            id="rests",
        ),
        pytest.param(
            replace(OFTEN, sleeping=90), "only 30% of the looks met it in such a wait (threshold 40%)", id="works"
        ),
        pytest.param(replace(OFTEN, cpu_s=60.0), "it works for 1,200 us at each (threshold 1,000 us)", id="a clock"),
        pytest.param(
            replace(OFTEN, last=100, woke=40), "40% of its steps make something ready (threshold 20%)", id="a producer"
        ),
        pytest.param(replace(OFTEN, looks=9, sleeping=9), "9 looks are too few to be sure", id="a few looks"),
        pytest.param(replace(SPIN, sleeping=9), "it is hot_loop that tells of it", id="a spin"),
    ],
)
def test_what_uses_more_than_a_poll_may_is_told_with_the_condition_that_it_does_not_meet(
    one: CoroutineWindow, why: str
) -> None:
    (finding,) = polling.check(window(one))
    assert finding.verdict == "clear"
    assert finding.summary.partition(" (threshold 0.01)")[2] == f", but {why}."
    (finding,) = polling.check(window(replace(one, cpu_s=0.0), loops=(loop(0.01),)))
    assert finding.summary.endswith(" CPUs (threshold 0.01).")
