"""What goes round for nothing is told from what goes round as fast and gets somewhere."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import cast

import pytest

from taskwatt.rules import hot_loop
from taskwatt.rules.finding import Evidence, Finding
from taskwatt.windows import CoroutineWindow, Window
from tests.rules.loop_windows import (
    AT_END,
    CONSUMER,
    CRUNCH,
    FLOODED_SOCKET,
    HANDLER,
    RECONNECT,
    REDIS_POLL,
    SLEEP_POLL,
    SPIN,
    loop,
    window,
)


def said(*coroutines: CoroutineWindow) -> list[tuple[str, str, str]]:
    return told(window(*coroutines))


def told(seen: Window) -> list[tuple[str, str, str]]:
    return [(finding.verdict, finding.subtype, finding.task) for finding in hot_loop.check(seen)]


CLEAR = [("clear", "", "")]


def test_a_spin_is_found_with_the_cpu_of_the_loop_that_it_turns() -> None:
    assert hot_loop.check(window(SPIN, loops=(loop(9.96),))) == (
        Finding(
            cause="hot_loop",
            subtype="spin",
            verdict="found",
            process_class="job",
            task="app.spin",
            wasted_cores=cast(float, pytest.approx(0.996)),
            confidence=cast(float, pytest.approx(1.0, abs=0.001)),
            summary=(
                "app.spin spins: it yielded and was run again at once in 100% of its 175,800 steps a second "
                "(threshold 50%), and never came to a good end, burning 1.00 of 2 CPUs (threshold 0.02), at spin "
                "(app.py:12)."
            ),
            evidence=(
                Evidence("self_wake_share", cast(float, pytest.approx(0.9999, abs=0.001)), 0.5, 1_758_000),
                Evidence("steps_per_end", 1_758_000, 1_000, 1_758_000),
                Evidence("cpu_per_step_us", cast(float, pytest.approx(2.1, abs=0.1)), 100.0, 1_758_000),
                Evidence("wasted_cores", cast(float, pytest.approx(0.996)), 0.02, 1_758_000),
            ),
            ruled_out=("Work in pieces: a step takes 2 us (threshold 100 us).",),
            next_step=hot_loop.NEXT_STEPS["spin"],
            code=SPIN.resumed_at,
        ),
    )


@pytest.mark.parametrize(
    ("one", "subtype"),
    [
        pytest.param(SPIN, "spin", id="sleep(0)"),
        pytest.param(replace(SPIN, steps=355_720, self_wakes=355_700, cpu_s=8.56), "spin", id="with a look at a queue"),
        pytest.param(replace(SPIN, completed=100), "spin", id="until each job ends"),
        pytest.param(RECONNECT, "reconnect", id="a client without a pause"),
        pytest.param(
            replace(RECONNECT, name="asyncio.streams.open_connection", failed=32_000, started=32_000),
            "reconnect",
            id="an attempt is a task of its own",
        ),
        pytest.param(AT_END, "end_of_file", id="a pipe at its end"),
    ],
)
def test_each_shape_is_found_under_its_name(one: CoroutineWindow, subtype: str) -> None:
    assert said(one, HANDLER) == [("found", subtype, one.name)]


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(CRUNCH, id="a computing coroutine that yields"),
        pytest.param(replace(CRUNCH, completed=0), id="and has not ended yet"),
        pytest.param(HANDLER, id="a saturated server"),
        pytest.param(CONSUMER, id="a consumer that always has work"),
        pytest.param(FLOODED_SOCKET, id="a flooded socket"),
        pytest.param(REDIS_POLL, id="a poll with a timeout"),
        pytest.param(SLEEP_POLL, id="a poll that sleeps"),
        pytest.param(replace(RECONNECT, connecting=200), id="a client that also works"),
        pytest.param(replace(SPIN, self_wakes=879_000), id="half of the steps, and no more"),
        pytest.param(replace(SPIN, completed=1_759), id="just under 1,000 steps to an end"),
        pytest.param(replace(SPIN, cpu_s=176.0), id="just over 100 us a step"),
        pytest.param(replace(AT_END, steps=19_999), id="just under 2,000 runs a second"),
        pytest.param(replace(AT_END, at_end=150), id="a reader that meets an end now and then"),
    ],
)
def test_what_gets_somewhere_is_clear(one: CoroutineWindow) -> None:
    assert said(one) == CLEAR


def test_just_under_a_noticeable_waste_is_clear() -> None:
    slow = replace(SPIN, steps=9_000, self_wakes=9_000, cpu_s=0.02)
    assert told(window(slow, loops=(loop(0.199),))) == CLEAR
    assert told(window(slow, loops=(loop(0.201),))) == [("found", "spin", "app.spin")]


def test_the_caller_is_named_beside_the_tasks_that_asyncio_made_for_it() -> None:
    made = replace(RECONNECT, name="asyncio.streams.open_connection", failed=32_000, started=32_000)
    assert said(made, RECONNECT) == [("found", "reconnect", "app.client")]


def test_several_are_ranked_by_their_waste() -> None:
    assert [task for _, _, task in said(RECONNECT, SPIN, AT_END)] == ["app.spin", "app.client", "app.on_readable"]


def test_without_a_loop_it_is_clear() -> None:
    assert told(window()) == CLEAR


def test_too_short_a_window_is_not_enough_data() -> None:
    assert told(window(SPIN, seconds=4.9)) == [("not_enough_data", "", "")]


@pytest.mark.parametrize("seed", range(25))
def test_spins_and_honest_work_are_told_apart_under_noise(seed: int) -> None:
    dice = random.Random(seed)
    steps = dice.randrange(100_000, 2_000_000)
    spin = replace(
        SPIN, steps=steps, self_wakes=int(steps * dice.uniform(0.9, 1)), cpu_s=steps * dice.uniform(1e-6, 3e-5)
    )
    pieces = dice.randrange(100, 5_000)
    honest = replace(CRUNCH, steps=pieces, self_wakes=pieces, completed=0, cpu_s=pieces * dice.uniform(2e-4, 2e-2))
    assert (said(spin), said(honest)) == ([("found", "spin", "app.spin")], CLEAR)


@pytest.mark.parametrize(
    ("one", "why"),
    [
        pytest.param(
            CRUNCH,
            "99% of them after a bare yield (threshold 50%), but it ends once in 206 steps (threshold 1,000)",
            id="ends",
        ),
        pytest.param(
            replace(CRUNCH, completed=0),
            "99% of them after a bare yield (threshold 50%), but a step takes 1,998 us (threshold 100 us)",
            id="works",
        ),
        pytest.param(
            replace(SPIN, steps=2_000, self_wakes=2_000, cpu_s=0.01),
            "100% of them after a bare yield (threshold 50%), but it uses 0.011 CPUs (threshold 0.02)",
            id="costs little",
        ),
        pytest.param(HANDLER, "0% of them after a bare yield", id="does not yield"),
    ],
)
def test_what_yields_often_is_told_with_the_condition_that_it_does_not_meet(one: CoroutineWindow, why: str) -> None:
    (finding,) = hot_loop.check(window(one, loops=(loop(one.cpu_s + 0.1),)))
    assert (finding.verdict, finding.summary.partition(" a second, ")[2]) == (
        "clear",
        f"{why}: nothing goes round for nothing.",
    )
