"""Threads that keep the interpreter are told from those that let go of it, and from a loop that is busy itself."""

from __future__ import annotations

import random
from typing import cast

import pytest

from taskwatt.rules import gil_contention
from taskwatt.rules.finding import Evidence, Finding
from taskwatt.windows import InterpreterWindow, Window
from tests.rules.loop_windows import HANDLER, delays, loop, window

CLEAR = ["clear"]


def seen(
    python_cpu: float,
    late_ms: float,
    loop_cpus: float,
    busy: float | None = None,
    waiting: float = 0.0,
    *,
    samples: int = 400,
    seconds: float = 10.0,
    hottest: str = "",
) -> Window:
    """`busy`: share of the time; by default what the loop used."""
    interpreter = InterpreterWindow(python_cpu, late_ms / 1e3, samples, waiting, hottest)
    lags = delays(s0_05=9.8, s0_1=0.2)
    busy_s = 10 * (loop_cpus if busy is None else busy)
    one = loop(10 * loop_cpus, delay=lags, busy_s=busy_s, idle_s=10 - busy_s)
    return window(HANDLER, loops=(one,), interpreter=interpreter, seconds=seconds)


def said(checked: Window) -> list[str]:
    return [finding.verdict for finding in gil_contention.check(checked)]


def test_computing_threads_are_found_and_the_hottest_is_named() -> None:
    assert gil_contention.check(seen(1.02, 13.9, 0.05, waiting=0.3, hottest="crunch-1")) == (
        Finding(
            cause="gil_contention",
            verdict="found",
            process_class="job",
            confidence=cast(float, pytest.approx(400 / 404)),
            summary=(
                "Computing threads hold the interpreter: threads beside the event loop use 0.97 CPUs (threshold 0.3), "
                "and who wants the interpreter gets it 13.7 ms late because of them (threshold 1.5 ms), while 0.30 "
                "loops wait for it in a step (threshold 0.2), most of it in the thread crunch-1; what arrives waits "
                "up to 0.087 s."
            ),
            evidence=(
                Evidence("interpreter_late_ms", cast(float, pytest.approx(13.65)), 1.5, 400),
                Evidence("threads_cpus", cast(float, pytest.approx(0.97)), 0.3, 10),
                Evidence("loops_waiting", 0.3, 0.2, 10),
                Evidence("lag_p99_s", cast(float, pytest.approx(0.0875)), 0.1, 10),
            ),
            ruled_out=(
                "The loop's own work: it explains 0.2 ms of the delay, and is taken off.",
                "A lack of CPUs: what the probe waited for one is taken off.",
            ),
            next_step=gil_contention.NEXT_STEP,
        ),
    )


@pytest.mark.parametrize(
    ("python_cpu", "late_ms", "loop_cpus", "busy", "waiting", "verdict"),
    [
        pytest.param(1.02, 4.59, 0.01, 0.01, 0.0, "found", id="one thread beside an idle loop"),
        pytest.param(0.98, 4.70, 0.13, 0.3, 0.0, "found", id="one thread beside a loop with work"),
        pytest.param(1.01, 5.82, 0.39, 1.0, 0.37, "found", id="one thread beside a loop that is full"),
        pytest.param(0.93, 22.87, 0.03, 0.3, 0.09, "found", id="four threads"),
        pytest.param(0.41, 1.84, 0.01, 0.01, 0.0, "found", id="one thread that began 4 s ago"),
        pytest.param(0.82, 3.96, 0.81, 1.0, 0.0, "clear", id="a full loop alone"),
        pytest.param(0.68, 3.78, 0.38, 1.0, 0.01, "clear", id="a thread that hashes beside a full loop"),
        pytest.param(0.79, 1.02, 0.13, 0.3, 0.0, "clear", id="two threads that hash"),
        pytest.param(0.79, 1.02, 0.01, 0.8, 0.8, "clear", id="two threads that hash beside a loop that is blocked"),
        pytest.param(0.26, 0.70, 0.21, 0.3, 0.0, "clear", id="eight threads that wait"),
        pytest.param(0.02, 0.11, 0.01, 0.01, 0.0, "clear", id="idle"),
        pytest.param(1.0, 1.54, 0.01, 0.01, 0.0, "clear", id="just under 1.5 ms"),
        pytest.param(0.3, 9.0, 0.01, 0.01, 0.0, "clear", id="just under 0.3 CPUs"),
        pytest.param(1.0, 5.8, 0.4, 1.0, 0.19, "clear", id="just under 0.2 loops that wait"),
    ],
)
def test_the_measured_cases(
    python_cpu: float, late_ms: float, loop_cpus: float, busy: float, waiting: float, verdict: str
) -> None:
    assert said(seen(python_cpu, late_ms, loop_cpus, busy, waiting)) == [verdict]


def test_without_a_loop_it_is_clear() -> None:
    assert said(window()) == CLEAR
    assert said(window(HANDLER, loops=())) == CLEAR


def test_too_short_a_window_or_too_few_probes_are_not_enough_data() -> None:
    assert said(seen(1.0, 20.0, 0.1, seconds=4.9)) == ["not_enough_data"]
    assert said(seen(1.0, 20.0, 0.1, samples=19)) == ["not_enough_data"]
    assert said(seen(0.0, 0.1, 0.0, samples=0)) == ["not_enough_data"]


def test_few_probes_are_enough_where_no_thread_computes() -> None:
    """As in a process that waits, whose watchdog sleeps."""
    assert said(seen(0.001, 0.1, 0.001, samples=12)) == CLEAR


def test_a_loop_that_nothing_has_probed_yet_is_no_absence_of_loops() -> None:
    (finding,) = gil_contention.check(window(HANDLER, loops=(loop(1.0),)))
    assert (finding.verdict, finding.summary) == (
        "not_enough_data",
        "Only 10.0 s and 0 probes were covered; a verdict needs 5 s and 20.",
    )


@pytest.mark.parametrize("seed", range(25))
def test_hogs_and_busy_loops_are_told_apart_under_noise(seed: int) -> None:
    dice = random.Random(seed)
    own = dice.uniform(0.0, 0.5)
    hogged = seen(dice.uniform(0.9, 1.05), dice.uniform(3.5, 25.0) + 5 * own, own)
    busy = dice.uniform(0.5, 1.0)
    alone = seen(busy + dice.uniform(0.0, 0.2), 5 * busy * dice.uniform(0.2, 1.1), busy)
    assert (said(hogged), said(alone)) == (["found"], CLEAR)


def summary(checked: Window) -> str:
    (finding,) = gil_contention.check(checked)
    assert finding.verdict == "clear"
    return finding.summary


def test_no_delay_is_laid_at_the_door_of_threads_that_do_nothing() -> None:
    assert summary(seen(1.0, 361.8, 1.0)) == (
        "Threads beside the event loop use 0.00 CPUs (threshold 0.3): too little to keep the interpreter from anyone."
    )


def test_loops_that_wait_for_something_else_are_told_so() -> None:
    assert summary(seen(0.79, 1.02, 0.01, 0.8, 0.8)) == (
        "Threads beside the event loop use 0.78 CPUs (threshold 0.3), and who wants the interpreter gets it 0.0 ms "
        "late because of them (threshold 1.5 ms), while 0.80 loops wait for it in a step (threshold 0.2); but who "
        "wants it gets it 1.0 ms late in all (threshold 3 ms): they wait for something else."
    )
    assert summary(seen(1.0, 1.54, 0.01, 0.01)) == (
        "Threads beside the event loop use 0.99 CPUs (threshold 0.3), and who wants the interpreter gets it 1.5 ms "
        "late because of them (threshold 1.5 ms), while 0.00 loops wait for it in a step (threshold 0.2)."
    )
