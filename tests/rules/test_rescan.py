"""Going through all that is pending for each that completes is told from steps that are merely long."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import cast

import pytest

from taskwatt.rules import rescan
from taskwatt.rules.finding import Evidence, Finding
from taskwatt.windows import CoroutineWindow, Window
from tests.rules.loop_windows import COLLECT, CRUNCH, HANDLER, JOB, loop, window

CLEAR = [("clear", "", "")]
GROWING = CoroutineWindow(
    "app.reap", steps=900, cpu_s=1.5, costs=tuple((alive, 6e-7 * alive) for alive in range(100, 5_000, 100))
)


def told(seen: Window) -> list[tuple[str, str, str]]:
    return [(finding.verdict, finding.subtype, finding.task) for finding in rescan.check(seen)]


def said(*coroutines: CoroutineWindow) -> list[tuple[str, str, str]]:
    return told(window(*coroutines))


def test_a_rescan_is_found_with_what_the_scanning_costs() -> None:
    assert rescan.check(window(COLLECT, JOB)) == (
        Finding(
            cause="rescan",
            subtype="asyncio_wait",
            verdict="found",
            process_class="job",
            task="app.collect",
            wasted_cores=0.45,
            confidence=cast(float, pytest.approx(300 / 304)),
            summary=(
                "app.collect goes through 3,300 pending tasks (threshold 100) for each that completes: 300 of 300 "
                "looks met it in asyncio.wait, and a step takes 1.5 ms, burning 0.45 of 2 CPUs (threshold 0.02), at "
                "collect (app.py:12)."
            ),
            evidence=(
                Evidence("scanning_share", cast(float, pytest.approx(0.987, abs=0.001)), 0.75, 300),
                Evidence("pending", 3_300.0, 100, 300),
                Evidence("wasted_cores", 0.45, 0.02, 2_951),
            ),
            ruled_out=("Work with the results: going through all explains 100% of its CPU.",),
            next_step=rescan.NEXT_STEPS["asyncio_wait"],
            code=COLLECT.resumed_at,
        ),
    )


def test_a_scan_written_by_hand_is_told_by_its_growing_cost() -> None:
    assert said(GROWING, JOB) == [("found", "growing_cost", "app.reap")]


def test_work_with_the_results_is_no_waste() -> None:
    (finding,) = rescan.check(window(replace(COLLECT, cpu_s=9.0), JOB))
    assert finding.wasted_cores == pytest.approx(2_951 * 3_300 * 0.5e-6 / 10)


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(replace(COLLECT, scanned=300 * 99), id="just under 100 at once"),
        pytest.param(replace(COLLECT, steps=121, cpu_s=0.199), id="just under 0.02 CPUs"),
        pytest.param(replace(COLLECT, scanning=200), id="a third of the looks elsewhere"),
        pytest.param(replace(COLLECT, scanning=0, scanned=0, steps=3_816, cpu_s=0.056), id="as_completed"),
        pytest.param(HANDLER, id="a saturated server"),
        pytest.param(CRUNCH, id="a computing coroutine"),
        pytest.param(replace(GROWING, costs=GROWING.costs[:29]), id="29 long steps"),
        pytest.param(replace(GROWING, costs=GROWING.costs[-36:]), id="numbers that hardly differ"),
        pytest.param(replace(GROWING, cpu_s=0.19), id="hardly any CPU"),
        pytest.param(
            replace(GROWING, costs=tuple((alive, 2e-3) for alive, _ in GROWING.costs)), id="long steps of one length"
        ),
        pytest.param(
            replace(GROWING, costs=tuple((alive, 1e-5 * alive**0.7) for alive, _ in GROWING.costs)),
            id="a cost that grows slowly",
        ),
    ],
)
def test_steps_that_are_merely_long_are_clear(one: CoroutineWindow) -> None:
    assert said(one, JOB) == CLEAR


def test_without_a_coroutine_it_is_clear() -> None:
    assert told(window()) == CLEAR
    assert told(window(loops=(loop(1.0),))) == CLEAR


def test_too_short_a_window_is_not_enough_data() -> None:
    assert told(window(COLLECT, seconds=4.9)) == [("not_enough_data", "", "")]


@pytest.mark.parametrize("seed", range(25))
def test_growing_costs_and_noise_are_told_apart(seed: int) -> None:
    dice = random.Random(seed)
    alive = [dice.randrange(50, 5_000) for _ in range(60)]
    scan = replace(GROWING, costs=tuple((each, each * dice.uniform(4e-7, 7e-7)) for each in alive))
    work = replace(GROWING, costs=tuple((each, dice.uniform(5e-4, 5e-3)) for each in alive))
    assert (said(scan), said(work)) == ([("found", "growing_cost", "app.reap")], CLEAR)


@pytest.mark.parametrize(
    ("looks", "scanning", "why"),
    [
        (9, 9, "but 9 looks are too few to be sure."),
        (300, 150, "but only 50% of the looks met it there (threshold 75%)."),
    ],
)
def test_what_scans_much_is_told_with_the_condition_that_it_does_not_meet(looks: int, scanning: int, why: str) -> None:
    (finding,) = rescan.check(window(replace(COLLECT, looks=looks, scanning=scanning, scanned=scanning * 3_300)))
    assert (finding.verdict, finding.summary.partition(": ")[2]) == ("clear", why)
