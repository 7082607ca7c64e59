"""Waiting for a CPU: our own concurrency, or the host. The cases are measured ones."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import cast

import pytest

from taskwatt.rules import oversubscription, starved
from taskwatt.rules.finding import Evidence, Finding
from taskwatt.windows import HostWindow, Window

SIX_ON_TWO = HostWindow(effective_cpus=2, own_cpu=2.0, own_run_delay=4.0, runnable_processes=6)
SIX_BESIDE_A_NEIGHBOUR = replace(SIX_ON_TWO, own_cpu=0.89, own_run_delay=5.1)
ONE_BESIDE_FIVE = HostWindow(effective_cpus=2, own_cpu=0.14, own_run_delay=0.86, runnable_processes=1)
ONE_UNDER_HALF_A_CPU = HostWindow(0.5, own_cpu=0.5, own_run_delay=0.5, throttled_ratio=0.96, runnable_processes=2)
THREE_UNDER_HALF_A_CPU = HostWindow(0.5, own_cpu=0.5, own_run_delay=2.5, throttled_ratio=0.96, runnable_processes=3)
FULL_BUT_FITTING = HostWindow(effective_cpus=2, own_cpu=1.9, own_run_delay=0.2, runnable_processes=3)
SMALL_TASKS = HostWindow(effective_cpus=2, own_cpu=0.3, own_run_delay=0.4, runnable_processes=3, idle_cpus=1.5)
DOING_IO = HostWindow(effective_cpus=2, own_cpu=0.5, own_run_delay=0.1, runnable_processes=8)
IDLE = HostWindow(effective_cpus=2, own_cpu=0.01, own_run_delay=0.01)
UNKNOWN = HostWindow(effective_cpus=2, own_cpu=1.0, own_run_delay=None)


def window(host: HostWindow, seconds: float = 10.0) -> Window:
    return Window(seconds, "worker", (), host, cpu_total=10.0, cpu_none=0.0, cpu_unattributed=0.0)


def said(host: HostWindow, seconds: float = 10.0) -> tuple[tuple[str, str], tuple[str, str]]:
    """(verdict, subtype) of oversubscription and of starved."""
    (own,) = oversubscription.check(window(host, seconds))
    (others,) = starved.check(window(host, seconds))
    return (own.verdict, own.subtype), (others.verdict, others.subtype)


CLEAR, UNJUDGED = ("clear", ""), ("not_enough_data", "")


@pytest.mark.parametrize(
    ("host", "own", "others"),
    [
        pytest.param(SIX_ON_TWO, ("found", "concurrency"), CLEAR, id="6 processes on 2 CPUs"),
        pytest.param(
            SIX_BESIDE_A_NEIGHBOUR, ("found", "concurrency"), ("found", "neighbour"), id="and a neighbour as well"
        ),
        pytest.param(ONE_BESIDE_FIVE, CLEAR, ("found", "neighbour"), id="1 process beside 5 neighbours"),
        pytest.param(
            replace(ONE_BESIDE_FIVE, steal_ratio=0.05), CLEAR, ("found", "hypervisor"), id="a hypervisor that steals"
        ),
        pytest.param(ONE_UNDER_HALF_A_CPU, CLEAR, ("found", "quota"), id="1 process under half a CPU"),
        pytest.param(THREE_UNDER_HALF_A_CPU, ("found", "quota"), CLEAR, id="3 processes under half a CPU"),
        pytest.param(FULL_BUT_FITTING, CLEAR, CLEAR, id="a full pool that fits"),
        pytest.param(SMALL_TASKS, CLEAR, CLEAR, id="small tasks that wait for the scheduler while a CPU is idle"),
        pytest.param(DOING_IO, CLEAR, CLEAR, id="8 processes doing IO"),
        pytest.param(IDLE, CLEAR, CLEAR, id="idle"),
        pytest.param(UNKNOWN, UNJUDGED, UNJUDGED, id="no schedstat"),
        pytest.param(replace(SIX_ON_TWO, own_run_delay=0.99), CLEAR, CLEAR, id="just under half of E"),
        pytest.param(replace(ONE_BESIDE_FIVE, own_cpu=0.76, own_run_delay=0.24), CLEAR, CLEAR, id="just under 25 %"),
    ],
)
def test_waiting_is_laid_at_the_right_door(host: HostWindow, own: tuple[str, str], others: tuple[str, str]) -> None:
    assert said(host) == (own, others)


def test_too_short_a_window_is_not_enough_data() -> None:
    assert said(SIX_BESIDE_A_NEIGHBOUR, seconds=4.9) == (UNJUDGED, UNJUDGED)


def test_a_young_window_makes_it_doubtful() -> None:
    unsure = "not_enough_data"
    assert said(SIX_BESIDE_A_NEIGHBOUR, seconds=5.5) == ((unsure, "concurrency"), (unsure, "neighbour"))


def test_oversubscription_says_how_much_too_much() -> None:
    assert oversubscription.check(window(SIX_ON_TWO)) == (
        Finding(
            cause="oversubscription",
            subtype="concurrency",
            verdict="found",
            process_class="worker",
            confidence=10 / 14,
            summary=(
                "The worker processes compete with each other: own work asks for 6.00 CPUs where 2 may be used, "
                "4.00 too many (threshold 1.00), from 6 processes with work."
            ),
            evidence=(
                Evidence("own_excess", 4.0, 1.0, 10),
                Evidence("demand", 6.0, 2, 10),
                Evidence("run_delay_per_cpu", 2.0, 0.5, 10),
            ),
            ruled_out=("The host: it took 0.00 CPUs from us (threshold 0.20).",),
            next_step=oversubscription.NEXT_STEP,
        ),
    )


def test_starved_says_what_was_withheld_and_by_whom() -> None:
    host = replace(ONE_BESIDE_FIVE, steal_ratio=0.001, throttled_ratio=0.0)
    assert starved.check(window(host)) == (
        Finding(
            cause="starved",
            subtype="neighbour",
            verdict="found",
            process_class="worker",
            confidence=10 / 14,
            summary=(
                "The worker processes are held back by other processes on this machine: 0.86 of the 1.00 CPUs that "
                "were ours to use were withheld (threshold 0.25)."
            ),
            evidence=(
                Evidence("shortfall", cast(float, pytest.approx(0.86)), 0.25, 10),
                Evidence("throttled_ratio", 0.0, 0.1, 10),
                Evidence("steal_ratio", 0.001, 0.05, 10),
            ),
            ruled_out=(
                "Own concurrency: own work asks for 1.00 CPUs, as one thread does.",
                "A quota: it ran out in 0% of its periods (threshold 10%).",
                "The hypervisor: it kept 0.1% of the time (threshold 5%).",
            ),
            next_step=starved.TAKERS["neighbour"][1],
        ),
    )


@pytest.mark.parametrize("seed", range(25))
def test_own_concurrency_and_neighbours_are_told_apart_under_noise(seed: int) -> None:
    dice = random.Random(seed)
    cpus = dice.choice([2, 4, 8])
    own = HostWindow(cpus, own_cpu=cpus * dice.uniform(0.95, 1.0), own_run_delay=cpus * dice.uniform(0.7, 4.0))
    neighbour = HostWindow(cpus, own_cpu=dice.uniform(0.1, 0.6), own_run_delay=dice.uniform(0.3, 0.39))
    assert said(own) == (("found", "concurrency"), CLEAR)
    assert said(neighbour) == (CLEAR, ("found", "neighbour"))


def test_one_thread_under_a_quota_is_told_why_it_does_not_compete() -> None:
    (finding,) = oversubscription.check(window(ONE_UNDER_HALF_A_CPU))
    assert (finding.verdict, finding.summary) == (
        "clear",
        (
            "Own work asks for 1.00 CPUs where 0.5 may be used: 0.50 too many (threshold 0.25), but one thread alone "
            "does not compete with itself."
        ),
    )
