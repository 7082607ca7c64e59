"""High load that is honest work is called that, and only when nothing else was found."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import cast

import pytest

from taskwatt.observations import CodeSite
from taskwatt.rules import useful_compute
from taskwatt.rules.finding import Evidence, Finding
from taskwatt.windows import CoroutineWindow, HostWindow, TaskWindow, Window

HOST = HostWindow(effective_cpus=2, own_cpu=1.7, own_run_delay=0.1)
RENDER = TaskWindow("shop.render", "worker", attempts={"useful": 96, "failed": 1}, firsts=97, cpu={"useful": 16.0})
MAIL = TaskWindow("shop.mail", "worker", attempts={"useful": 300}, firsts=300, cpu={"useful": 0.5})


def window(*tasks: TaskWindow, cpu: float = 17.0, seconds: float = 10.0, cpus: float = 2) -> Window:
    host = replace(HOST, effective_cpus=cpus)
    return Window(seconds, "worker", tasks, host, cpu_total=cpu, cpu_none=0.2, cpu_unattributed=0.3)


def verdict(*tasks: TaskWindow, cpu: float = 17.0, seconds: float = 10.0, cpus: float = 2) -> str:
    (finding,) = useful_compute.check(window(*tasks, cpu=cpu, seconds=seconds, cpus=cpus))
    return finding.verdict


def test_a_cpu_bound_worker_is_called_useful() -> None:
    assert useful_compute.check(window(MAIL, RENDER)) == (
        Finding(
            cause="useful_compute",
            verdict="found",
            process_class="worker",
            task="shop.render",
            confidence=cast(float, pytest.approx((1 - 0.3 / 17) * 397 / 401)),
            summary=(
                "The load is real work: 1.70 of 2 CPUs busy, 97% of it useful (threshold 85%), 1.00 attempts for each "
                "arrival (threshold 1.1); shop.render uses 1.60 of them."
            ),
            evidence=(
                Evidence("total_cores", 1.7, 0.5, 10),
                Evidence("useful_ratio", cast(float, pytest.approx(16.5 / 17)), 0.85, 397),
                Evidence("amplification", 1.0, 1.1, 397),
            ),
            ruled_out=("Repeated waste: none of the rules that look for it found any.",),
            next_step=useful_compute.NEXT_STEP,
        ),
    )


def test_it_is_silent_when_another_cause_was_found() -> None:
    other = Finding("oversubscription", "found", "worker", "Too many.")
    (finding,) = useful_compute.check(window(RENDER), (other,))
    assert (finding.verdict, finding.summary) == ("clear", "The load has another explanation: oversubscription.")


def test_half_a_small_quota_is_busy() -> None:
    task = replace(RENDER, cpu={"useful": 3.4})
    assert verdict(task, cpu=3.5, cpus=0.5) == "found"
    assert verdict(task, cpu=3.5, cpus=2) == "clear"


@pytest.mark.parametrize(
    ("task", "cpu"),
    [
        pytest.param(replace(RENDER, cpu={"useful": 4.9}), 4.99, id="just under half a core"),
        pytest.param(replace(RENDER, cpu={"useful": 14.4, "failed": 2.1}), 17.0, id="just under 85 % useful"),
        pytest.param(replace(RENDER, firsts=88), 17.0, id="just over 1.1 attempts for each arrival"),
    ],
)
def test_just_under_a_threshold_is_clear(task: TaskWindow, cpu: float) -> None:
    assert verdict(task, cpu=cpu) == "clear"


def test_a_busy_event_loop_is_useful_and_its_steps_are_no_attempts() -> None:
    """As the agent folds a job without Celery: a coroutine type is a task whose steps all end."""
    steps = TaskWindow("app.crunch", "job", attempts={"useful": 4_950}, firsts=4_950, cpu={"useful": 9.89})
    coroutine = CoroutineWindow("app.crunch", steps=4_950, cpu_s=9.89, own_cpu_s=9.89, self_wakes=4_925)
    seen = Window(10.0, "job", (steps,), HOST, 9.94, 0.04, 0.0, coroutines=(coroutine,))
    (finding,) = useful_compute.check(seen)
    assert (finding.verdict, finding.task, finding.summary) == (
        "found",
        "app.crunch",
        "The load is real work: 0.99 of 2 CPUs busy, 100% of it useful (threshold 85%); app.crunch uses 0.99 of them.",
    )
    turning = replace(seen, tasks=(replace(steps, cpu={"useful": 8.3}),), cpu_none=1.64)
    assert [finding.verdict for finding in useful_compute.check(turning)] == ["clear"]
    spinning = Finding("hot_loop", "found", "job", "It spins.")
    assert [finding.verdict for finding in useful_compute.check(seen, (spinning,))] == ["clear"]


def test_busy_routes_are_useful() -> None:
    """Requests are rows of accounts: they end once each, and are told from what failed."""
    route = TaskWindow("GET /items/{id}", "web", attempts={"useful": 900, "failed": 9}, firsts=909, cpu={"useful": 8.8})
    handler = CoroutineWindow("uvicorn.RequestResponseCycle.run_asgi", steps=2_000, cpu_s=8.9, own_cpu_s=0.1)
    seen = Window(10.0, "web", (route,), HOST, 9.9, 0.9, 0.1, coroutines=(handler,))
    (finding,) = useful_compute.check(seen)
    assert (finding.verdict, finding.task, len(finding.evidence)) == ("found", "GET /items/{id}", 3)


def test_an_idle_worker_is_clear() -> None:
    assert verdict(cpu=0.02) == "clear"


def test_work_in_flight_is_neither_useful_nor_wasted() -> None:
    pending = TaskWindow("shop.film", "worker", cpu={"pending": 10.0}, in_flight=2)
    assert verdict(pending, cpu=10.2) == "not_enough_data"
    assert verdict(pending, replace(RENDER, cpu={"useful": 6.7}), cpu=17.0) == "found"


def test_too_short_a_window_is_not_enough_data() -> None:
    assert verdict(RENDER, seconds=4.9) == "not_enough_data"


@pytest.mark.parametrize("seed", range(25))
def test_honest_work_is_useful_and_repeated_work_is_not_under_noise(seed: int) -> None:
    dice = random.Random(seed)
    honest = replace(RENDER, cpu={"useful": dice.uniform(15.0, 16.5), "failed": dice.uniform(0.0, 0.3)})
    repeated = replace(RENDER, cpu={"useful": dice.uniform(0.0, 13.0), "retried": 3.5}, firsts=97)
    assert (verdict(honest), verdict(repeated)) == ("found", "clear")


def test_an_attempt_that_never_returns_is_named_with_its_line_while_nothing_has_ended() -> None:
    stuck = TaskWindow("shop.render", "worker", cpu={"pending": 9.9}, in_flight=1, oldest_in_flight_s=63.0)
    (finding,) = useful_compute.check(
        window(replace(stuck, code=CodeSite("shop.render", "spin", "shop.py", 7, 1.0, 6)))
    )
    assert finding.verdict == "not_enough_data"
    assert finding.summary == (
        "1.70 of 2 CPUs busy, but no attempt has ended: useful or not is not decided. shop.render has run for 63 s, "
        "most often in spin (shop.py:7)."
    )
    (finding,) = useful_compute.check(window(replace(stuck, code_missing="no ptrace here")))
    assert finding.summary.endswith("has run for 63 s, at a line that is not known: no ptrace here.")


def test_it_says_what_was_looked_for_and_not_that_nothing_repeats() -> None:
    """A schedule that is registered twice, under two names: every attempt ends well, and each has its arrival."""
    rollup = TaskWindow("shop.rollup", "worker", attempts={"useful": 40}, firsts=40, cpu={"useful": 16.0})
    (finding,) = useful_compute.check(window(rollup))
    assert (finding.verdict, finding.next_step) == (
        "found",
        (
            "None of the retries, re-created tasks, spins and polls that are looked for was found. Whether all of this "
            "work is needed is not known here (a schedule that is registered twice looks like two jobs): where it is, "
            "add capacity, or profile and optimise the task named here."
        ),
    )
