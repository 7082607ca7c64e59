"""Work that re-creates itself is found; chains that drain, pagination and honest backoff are not."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import cast

import pytest

from taskwatt.rules import never_settles
from taskwatt.rules.finding import Evidence, Finding
from taskwatt.rules.statistics import host_confidence
from taskwatt.windows import HostWindow, TaskWindow, Window

HOST = HostWindow(effective_cpus=2, own_cpu=0.96, own_run_delay=0.05)

LOOP = TaskWindow(
    task="shop.poll",
    process_class="worker",
    attempts={"useful": 5_000},
    firsts=5_000,
    cpu={"useful": 9.6},
    max_depth=5_300,
    self_published=5_000,
    repeated_args=5_000,
)
PAGINATION = replace(LOOP, task="shop.pages", repeated_args=0)
ENDLESS = TaskWindow(
    task="shop.sync",
    process_class="worker",
    attempts={"retried": 6},
    cpu={"retried": 0.3},
    repeat_attempts=6,
    repeat_wasted_cpu=0.3,
    retry_delays=(30.0,) * 6,
    unsettled_attempts=11,
)


def window(*tasks: TaskWindow, seconds: float = 10.0, unattributed: float = 0.0) -> Window:
    return Window(seconds, "worker", tasks, HOST, cpu_total=9.7, cpu_none=0.1, cpu_unattributed=unattributed)


def verdicts(*tasks: TaskWindow, seconds: float = 10.0) -> list[tuple[str, str]]:
    return [(finding.verdict, finding.task) for finding in never_settles.check(window(*tasks, seconds=seconds))]


def test_requests_are_no_attempts() -> None:
    request = TaskWindow("GET /report", "worker", attempts={"useful": 500}, firsts=500, cpu={"useful": 9.0})
    (finding,) = never_settles.check(replace(window(request), rows=frozenset({"GET /report"})))
    assert finding == Finding("never_settles", "clear", "worker", "No task ran, so none re-created itself.")


def test_a_task_that_publishes_itself_with_the_same_arguments_is_found() -> None:
    assert never_settles.check(window(LOOP)) == (
        Finding(
            cause="never_settles",
            subtype="re_enqueue",
            verdict="found",
            process_class="worker",
            task="shop.poll",
            wasted_cores=0.96,
            confidence=5_000 / 5_004,
            summary=(
                "shop.poll publishes itself again with the same arguments: 5,000 of 5,000 self-published attempts "
                "repeat them (100%, threshold 50%), 5,300 generations deep (threshold 20), burning 0.96 of 2 CPUs "
                "(threshold 0.02)."
            ),
            evidence=(
                Evidence("depth", 5_300, 20, 5_000),
                Evidence("repeated_args_share", cast(float, pytest.approx(0.99923, abs=1e-5)), 0.5, 5_000),
                Evidence("wasted_cores", 0.96, 0.02, 5_000),
            ),
            ruled_out=("Pagination and draining chains: their arguments differ from one generation to the next.",),
            next_step=never_settles.RE_ENQUEUE_STEP,
        ),
    )


def test_only_the_self_published_share_is_wasted() -> None:
    (finding,) = never_settles.check(window(replace(LOOP, self_published=2_500, repeated_args=2_500)))
    assert finding.wasted_cores == pytest.approx(0.48)


def test_a_message_that_is_retried_for_ever_with_long_pauses_is_found() -> None:
    (finding,) = never_settles.check(window(ENDLESS))
    assert finding == Finding(
        cause="never_settles",
        subtype="endless_retry",
        verdict="found",
        process_class="worker",
        task="shop.sync",
        wasted_cores=0.03,
        confidence=11 / 15,
        summary=("shop.sync never settles: one of its messages has used 11 attempts without an end (threshold 10)."),
        evidence=(Evidence("unsettled_attempts", 11, 10, 11), Evidence("wasted_cores", 0.03, 0.02, 6)),
        ruled_out=("A retry storm: the pauses between the attempts are real.",),
        next_step=never_settles.ENDLESS_STEP,
    )


POISON = TaskWindow(
    task="images.thumbnail",
    process_class="worker",
    attempts={"useful": 40, "cancelled": 2},
    firsts=40,
    cpu={"useful": 2.0, "cancelled": 0.5},
    deaths=3,
)


def test_a_message_that_ends_every_process_that_takes_it_is_found() -> None:
    (finding,) = never_settles.check(window(POISON))
    assert finding == Finding(
        cause="never_settles",
        subtype="poison_message",
        verdict="found",
        process_class="worker",
        task="images.thumbnail",
        wasted_cores=0.05,
        confidence=host_confidence(10),
        summary=(
            "images.thumbnail never settles: 3 times the process died that worked on one of its messages (threshold "
            "3), and each time the message came back."
        ),
        evidence=(Evidence("deaths", 3, 3, 3), Evidence("wasted_cores", 0.05, 0.02, 2)),
        ruled_out=("A deployment, or one accident: those do not meet the same message again and again.",),
        next_step=never_settles.POISON_STEP,
    )


def test_a_message_that_came_back_once_is_no_poison_and_said() -> None:
    (finding,) = never_settles.check(window(replace(POISON, deaths=2)))
    said = "and 0 attempts without an end (threshold 10); one message met 2 processes that died (threshold 3)."
    assert (finding.verdict, finding.summary.endswith(said)) == ("clear", True)


def test_retries_without_a_pause_are_left_to_the_retry_storm() -> None:
    assert verdicts(replace(ENDLESS, retry_delays=(0.0,) * 64)) == [("clear", "")]


@pytest.mark.parametrize(
    "quiet",
    [
        pytest.param(PAGINATION, id="pagination"),
        pytest.param(replace(LOOP, max_depth=19), id="19 generations"),
        pytest.param(replace(LOOP, repeated_args=2_550), id="share whose bound is below one half"),
        pytest.param(replace(LOOP, cpu={"useful": 0.19}), id="a heartbeat that costs nothing"),
        pytest.param(replace(ENDLESS, unsettled_attempts=9), id="9 attempts"),
        pytest.param(replace(ENDLESS, attempts={"polling": 10}), id="chord_unlock waiting for its chord"),
    ],
)
def test_just_under_a_threshold_is_clear(quiet: TaskWindow) -> None:
    assert verdicts(quiet) == [("clear", "")]


def test_an_idle_worker_is_clear() -> None:
    assert verdicts() == [("clear", "")]


def test_too_short_a_window_is_not_enough_data() -> None:
    assert verdicts(LOOP, seconds=4.9) == [("not_enough_data", "")]


def test_too_few_generations_in_the_window_make_it_doubtful() -> None:
    slow = replace(LOOP, attempts={"useful": 5}, self_published=5, repeated_args=5)
    assert verdicts(slow) == [("not_enough_data", "shop.poll")]


@pytest.mark.parametrize("seed", range(25))
def test_a_loop_is_found_and_a_pagination_is_not_under_noise(seed: int) -> None:
    dice = random.Random(seed)
    published = dice.randrange(50, 5_000)
    loop = replace(
        LOOP,
        max_depth=dice.randrange(20, 9_000),
        attempts={"useful": published + dice.randrange(50), "failed": dice.randrange(20)},
        cpu={"useful": dice.uniform(0.5, 9.0)},
        self_published=published,
        repeated_args=round(published * dice.uniform(0.75, 1.0)),
    )
    pages = replace(PAGINATION, repeated_args=dice.randrange(1_500))
    assert verdicts(pages, loop) == [("found", "shop.poll")]


def test_endless_retries_without_a_pause_are_left_to_retry_storm_and_not_counted() -> None:
    (finding,) = never_settles.check(window(replace(ENDLESS, retry_delays=(0.0,) * 6, unsettled_attempts=101)))
    assert (finding.verdict, "and 0 attempts without an end" in finding.summary) == ("clear", True)
