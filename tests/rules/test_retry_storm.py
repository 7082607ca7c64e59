"""A storm is retries without a pause that do not help; everything that merely retries is left alone."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import cast

import pytest

from taskwatt.observations import CodeSite, Outcome
from taskwatt.rules import retry_storm
from taskwatt.rules.finding import Evidence, Finding
from taskwatt.windows import CoroutineWindow, HostWindow, TaskWindow, Window

HOST = HostWindow(effective_cpus=2, own_cpu=0.96, own_run_delay=0.05)

STORM = TaskWindow(
    task="shop.charge",
    process_class="worker",
    attempts={"retried": 1_130, "failed": 80},
    firsts=80,
    cpu={"retried": 8.9, "failed": 0.7},
    repeat_attempts=1_130,
    repeat_wasted_cpu=9.1,
    retry_delays=(0.0,) * 256,
)
"""A dependency is down: 8 arrivals a second, some 15 immediate retries each."""

BACKOFF = replace(STORM, retry_delays=(1.0, 2.0, 4.0, 8.0) * 64, retry_growth=(2.0,) * 64)


def window(*tasks: TaskWindow, seconds: float = 10.0, unattributed: float = 0.0) -> Window:
    return Window(seconds, "worker", tasks, HOST, cpu_total=9.7, cpu_none=0.1, cpu_unattributed=unattributed)


def verdicts(*tasks: TaskWindow, seconds: float = 10.0) -> list[tuple[str, str]]:
    return [(finding.verdict, finding.task) for finding in retry_storm.check(window(*tasks, seconds=seconds))]


def test_an_immediate_retry_of_a_dead_dependency_is_a_storm() -> None:
    assert retry_storm.check(window(STORM)) == (
        Finding(
            cause="retry_storm",
            subtype="immediate",
            verdict="found",
            process_class="worker",
            task="shop.charge",
            wasted_cores=0.9099999999999999,
            confidence=1_210 / 1_214,
            summary=(
                "shop.charge retries without backing off: 1,130 of 1,210 attempts ended in a retry (93%, threshold "
                "10%) after a median pause of 0 s (threshold 1 s), and repeats without success burn 0.91 of 2 CPUs "
                "(threshold 0.02)."
            ),
            evidence=(
                Evidence("amplification", 15.125, 1.1, 1_210),
                Evidence("retry_share", cast(float, pytest.approx(0.9184, abs=1e-4)), 0.1, 1_210),
                Evidence("retries_per_s", 113.0, 1.0, 1_130),
                Evidence("median_retry_delay_s", 0.0, 1.0, 256),
                Evidence("repeat_success_share", 0.0, 0.2, 1_130),
                Evidence("wasted_cores", 0.9099999999999999, 0.02, 1_130),
            ),
            ruled_out=(
                "Backoff: nine in ten of 256 delays are at most 0 s (threshold 1 s).",
                "Retries that help: 0 of 1,130 repeats succeeded (0%, threshold 20%).",
            ),
            next_step=retry_storm.NEXT_STEP,
        ),
    )


def test_the_line_is_named_only_when_a_stack_saw_it() -> None:
    site = CodeSite("shop.charge", "connect", "shop/gateway.py", 41, weight=0.9, samples=40)
    (finding,) = retry_storm.check(window(replace(STORM, code=site)))
    assert finding.code == site
    assert finding.summary.endswith("(threshold 0.02), most often in connect (shop/gateway.py:41).")


def test_a_constant_short_delay_is_a_storm_too() -> None:
    flat = replace(STORM, retry_delays=(2.0,) * 64, retry_growth=(1.0,) * 64)
    (finding,) = retry_storm.check(window(flat))
    assert (finding.verdict, finding.subtype) == ("found", "flat_delay")
    assert finding.evidence[3:5] == (
        Evidence("median_retry_delay_s", 2.0, 4.0, 64),
        Evidence("retry_delay_growth", 1.0, 1.2, 64),
    )
    assert finding.ruled_out[0] == "Backoff: over 64 steps the delay grows at most 1.00x (threshold 1.2x)."


def test_every_storming_task_is_found_the_worst_first() -> None:
    small = replace(STORM, task="shop.mail", repeat_wasted_cpu=0.5)
    assert verdicts(small, STORM) == [("found", "shop.charge"), ("found", "shop.mail")]


def test_an_idle_worker_is_clear() -> None:
    assert verdicts() == [("clear", "")]
    assert verdicts(TaskWindow("shop.charge", "worker"), seconds=1.0) == [("clear", "")]


def test_a_busy_worker_without_retries_is_clear_however_few_its_attempts() -> None:
    slow = TaskWindow("shop.report", "worker", attempts={"useful": 3}, firsts=3, cpu={"useful": 9.0}, in_flight=2)
    (finding,) = retry_storm.check(window(slow))
    assert finding == Finding("retry_storm", "clear", "worker", "None of 3 attempts ended in a retry.")


def test_steps_of_coroutines_and_requests_are_no_attempts() -> None:
    request = TaskWindow("GET /report", "worker", attempts={"useful": 500}, firsts=500, cpu={"useful": 9.0})
    steps = replace(request, task="app.polls")
    slow = replace(request, task="shop.report", attempts={"useful": 3}, firsts=3)
    seen = replace(
        window(request, steps, slow),
        coroutines=(CoroutineWindow("app.polls", "task", own_cpu_s=9.0),),
        rows=frozenset({"GET /report"}),
    )
    (finding,) = retry_storm.check(seen)
    assert finding == Finding("retry_storm", "clear", "worker", "None of 3 attempts ended in a retry.")
    (finding,) = retry_storm.check(replace(seen, tasks=(request, steps)))
    assert finding == Finding("retry_storm", "clear", "worker", "No task ran, so none was retried.")


@pytest.mark.parametrize(
    "quiet",
    [
        pytest.param(BACKOFF, id="exponential backoff"),
        pytest.param(replace(STORM, retry_delays=(180.0,) * 64, retry_growth=(1.0,) * 64), id="celery's 180 s"),
        pytest.param(replace(STORM, retry_delays=(5.0,) * 64, retry_growth=(1.0,) * 64), id="backoff at its cap"),
        pytest.param(replace(STORM, attempts={"retried": 19, "failed": 3}), id="19 retries"),
        pytest.param(replace(STORM, attempts={"retried": 100, "useful": 900}), id="share whose bound is below 10 %"),
        pytest.param(replace(STORM, repeat_useful=226), id="every fifth repeat succeeds"),
        pytest.param(replace(STORM, repeat_wasted_cpu=0.19), id="waste below 2 % of a core"),
    ],
)
def test_just_under_a_threshold_is_clear(quiet: TaskWindow) -> None:
    assert verdicts(quiet) == [("clear", "")]


def test_less_than_one_retry_a_second_is_clear() -> None:
    slow = replace(STORM, attempts={"retried": 59, "failed": 4})
    assert verdicts(slow, seconds=60.0) == [("clear", "")]
    assert verdicts(replace(slow, attempts={"retried": 60, "failed": 4}), seconds=60.0) == [("found", "shop.charge")]


def test_steps_of_coroutines_are_no_attempts() -> None:
    types = TaskWindow("app.crunch", "job", attempts={"useful": 9_000}, firsts=9_000, cpu={"useful": 9.0})
    seen = replace(window(types), coroutines=(CoroutineWindow("app.crunch", steps=9_000, own_cpu_s=9.0),))
    assert [finding.summary for finding in retry_storm.check(seen)] == ["No task ran, so none was retried."]
    same_name = CoroutineWindow(STORM.task, steps=1_210, cpu_s=9.0)
    (finding,) = retry_storm.check(replace(window(STORM), coroutines=(same_name,)))
    assert (finding.verdict, finding.task) == ("found", STORM.task)


def test_too_short_a_window_is_not_enough_data() -> None:
    assert verdicts(STORM, seconds=4.9) == [("not_enough_data", "")]
    assert verdicts(STORM, seconds=5.0) == [("found", "shop.charge")]


def test_too_few_attempts_with_retries_are_not_enough_data() -> None:
    assert verdicts(replace(STORM, attempts={"retried": 15, "failed": 4})) == [("not_enough_data", "")]


def test_retries_whose_delay_is_unknown_are_not_enough_data() -> None:
    assert verdicts(replace(STORM, retry_delays=())) == [("not_enough_data", "")]


def test_a_ledger_that_explains_too_little_makes_a_storm_doubtful() -> None:
    (finding,) = retry_storm.check(window(STORM, unattributed=4.0))
    assert (finding.verdict, finding.wasted_cores) == ("not_enough_data", 0.0)
    assert finding.summary.startswith("Perhaps, with confidence 0.59 (threshold 0.6): shop.charge retries")


@pytest.mark.parametrize("seed", range(25))
def test_an_immediate_retry_is_found_under_noise(seed: int) -> None:
    dice = random.Random(seed)
    retried = dice.randrange(40, 1_200)
    settled: dict[Outcome, int] = {
        "retried": retried,
        "failed": dice.randrange(0, 80),
        "useful": dice.randrange(0, retried),
    }
    noisy = replace(
        STORM,
        attempts=settled,
        repeat_attempts=retried,
        repeat_useful=dice.randrange(0, retried // 6),
        repeat_wasted_cpu=retried * dice.uniform(0.006, 0.010),
        retry_delays=tuple(dice.uniform(0.0, 0.3) for _ in range(64)),
        retry_growth=tuple(dice.lognormvariate(0.0, 0.5) for _ in range(64)),
    )
    other = TaskWindow("shop.mail", "worker", attempts={"useful": dice.randrange(500)}, firsts=10)
    assert verdicts(other, noisy) == [("found", "shop.charge")]


@pytest.mark.parametrize("instant", [0.0, 0.002], ids=["exact", "measured"])
@pytest.mark.parametrize("seed", range(100))
def test_full_jitter_is_clear_although_it_draws_zero(seed: int, instant: float) -> None:
    dice = random.Random(seed)
    delays: list[float] = []
    growth: list[float] = []
    for _ in range(40):
        draws = [max(instant, dice.randrange(2**step + 1) - dice.uniform(0, 0.04)) for step in range(3)]
        delays += draws
        growth += [after / before for before, after in pairwise(draws) if before]
    assert verdicts(replace(STORM, retry_delays=tuple(delays), retry_growth=tuple(growth))) == [("clear", "")]


@pytest.mark.parametrize("seed", range(25))
def test_the_first_second_of_a_jittered_backoff_is_no_storm(seed: int) -> None:
    dice = random.Random(seed)
    first_draws = tuple(float(dice.randrange(2)) for _ in range(40))
    assert "found" not in {verdict for verdict, _ in verdicts(replace(STORM, retry_delays=first_draws))}
