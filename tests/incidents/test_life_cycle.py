"""When an incident opens, goes on, resolves and comes back, on a clock that only the test moves."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from taskwatt.incidents import Incident, Incidents, Transition, fingerprint, severity
from taskwatt.rules import Evidence, Finding

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def finding(wasted: float = 0.2, *, cause: str = "retry_storm", task: str = "shop.charge") -> Finding:
    return Finding(cause, "found", "worker", "A sentence.", task=task, wasted_cores=wasted)


class Machine:
    """An incident book and a clock; `run` ticks once a second through a string of `x` (found) and `.` (not found)."""

    def __init__(self) -> None:
        self.now = START
        self.incidents = Incidents(lambda: self.now)

    def run(self, ticks: str, wasted: float = 0.2) -> list[tuple[int, str, int]]:
        """(second, state, segment) of every transition."""
        told: list[tuple[int, str, int]] = []
        for tick in ticks:
            self.now += SECOND
            found = [finding(wasted)] if tick == "x" else []
            told += [
                ((self.now - START) // SECOND, transition.state, transition.incident.segment)
                for transition in self.incidents.observe(found, effective_cpus=2)
            ]
        return told

    @property
    def ids(self) -> list[str]:
        return [incident.id for incident in self.incidents.active]


def test_it_opens_when_it_holds_in_8_of_10_ticks() -> None:
    machine = Machine()
    assert machine.run("xxxxxxx") == []
    machine.now += SECOND
    (transition,) = machine.incidents.observe([finding()], effective_cpus=2)
    assert transition == Transition(
        "opened",
        Incident(
            id=transition.incident.id,
            fingerprint=fingerprint(finding()),
            finding=finding(),
            severity="warning",
            opened_at_ns=START + 8 * SECOND,
            updated_at_ns=START + 8 * SECOND,
            segment=1,
            state="opened",
        ),
    )
    assert machine.incidents.active == (transition.incident,)


def test_two_ticks_of_noise_do_not_hide_it() -> None:
    assert Machine().run("xxx.xx.xxx") == [(10, "opened", 1)]


def test_7_of_10_ticks_do_not_open_it() -> None:
    assert Machine().run("xxxxxxx..." * 6) == []


def test_half_a_core_of_waste_opens_it_after_3_ticks_in_a_row() -> None:
    assert Machine().run("xx.xx.xxx", wasted=0.5) == [(9, "opened", 1)]
    assert Machine().run("xxxx", wasted=0.49) == []


def test_it_goes_on_every_60_seconds_and_resolves_30_seconds_after_the_last_sight() -> None:
    told = Machine().run("x" * 130 + "." * 40)
    assert told == [(8, "opened", 1), (68, "ongoing", 2), (128, "ongoing", 3), (160, "resolved", 4)]


def test_one_sight_within_30_seconds_keeps_it_open() -> None:
    told = Machine().run("x" * 8 + "." * 29 + "x" + "." * 29)
    assert [state for _, state, _ in told] == ["opened"]


def test_reopening_within_10_minutes_keeps_the_id_and_counts_on() -> None:
    machine = Machine()
    assert machine.run("x" * 8 + "." * 30) == [(8, "opened", 1), (38, "resolved", 2)]
    before = machine.incidents.active
    told = machine.run("." * 590 + "x" * 8)
    assert (before, told) == ((), [(636, "opened", 3)])
    first, again = Machine(), machine.ids
    first.run("x" * 8)
    assert first.ids == again


def test_reopening_after_10_minutes_is_a_new_incident() -> None:
    machine = Machine()
    machine.run("x" * 8)
    before = machine.ids
    machine.run("." * 30)
    told = machine.run("." * 593 + "x" * 8)
    assert told == [(639, "opened", 1)]
    assert machine.ids != before


def test_the_severity_is_the_highest_it_reached_and_the_finding_the_newest() -> None:
    machine = Machine()
    machine.run("x" * 8, wasted=0.9)
    machine.run("x", wasted=0.2)
    (incident,) = machine.incidents.active
    assert (incident.severity, incident.severity_number, incident.finding) == ("critical", 17, finding(0.2))


def test_clear_lines_open_nothing() -> None:
    machine = Machine()
    quiet = Finding("retry_storm", "clear", "worker", "Fine.")
    assert [machine.incidents.observe([quiet], 2) for _ in range(10)] == [()] * 10


def test_tasks_have_incidents_of_their_own() -> None:
    machine = Machine()
    both = [finding(task="shop.charge"), finding(task="shop.mail")]
    told = [transition for _ in range(8) for transition in machine.incidents.observe(both, 2)]
    assert [transition.incident.finding.task for transition in told] == ["shop.charge", "shop.mail"]
    assert len(set(machine.ids)) == 2


def test_what_is_long_gone_is_forgotten() -> None:
    machine = Machine()
    for number in range(50):
        machine.incidents.observe([finding(task=f"shop.task{number}")], 2)
    machine.run("x" * 8 + "." * 640)
    assert machine.incidents._watches == {}


def test_the_fingerprint_is_the_same_everywhere_and_differs_by_task() -> None:
    assert fingerprint(finding(0.1)) == fingerprint(finding(0.9)) == "7596a1b5f8b8e284"
    assert fingerprint(finding(task="shop.mail")) != fingerprint(finding())


@pytest.mark.parametrize(
    ("wasted", "effective_cpus", "level"),
    [
        (0.02, 2, "info"),
        (0.099, 2, "info"),
        (0.1, 2, "warning"),
        (0.49, 2, "warning"),
        (0.5, 2, "critical"),
        (0.7, 16, "info"),
        (0.8, 16, "warning"),
        (3.9, 16, "warning"),
        (4.0, 16, "critical"),
    ],
)
def test_severity_follows_the_wasted_cores(wasted: float, effective_cpus: float, level: str) -> None:
    assert severity(finding(wasted), effective_cpus) == level


def test_useful_compute_is_never_more_than_information_and_waiting_is_a_warning() -> None:
    assert severity(finding(0.0, cause="useful_compute"), 2) == "info"
    assert severity(finding(0.0, cause="starved"), 2) == "warning"
    assert severity(finding(0.0, cause="oversubscription"), 2) == "warning"


@pytest.mark.parametrize("cause", ["loop_blocked", "fan_out", "gil_contention"])
@pytest.mark.parametrize(("lag_s", "level"), [(0.1, "warning"), (0.999, "warning"), (1.0, "critical")])
def test_what_holds_an_event_loop_is_critical_when_an_arrival_in_a_hundred_waits_a_second(
    cause: str, lag_s: float, level: str
) -> None:
    lag = Evidence("lag_p99_s", lag_s, 0.1, 10)
    assert severity(replace(finding(0.0, cause=cause), evidence=(lag,)), 2) == level


@pytest.mark.parametrize("seed", range(20))
def test_a_flickering_finding_opens_once_and_a_rare_one_never(seed: int) -> None:
    dice = random.Random(seed)
    often = "".join("x" if dice.random() < 0.95 else "." for _ in range(60))
    rare = "".join("x" if dice.random() < 0.2 else "." for _ in range(60))
    assert [state for _, state, _ in Machine().run(often) if state != "ongoing"] == ["opened"]
    assert Machine().run(rare) == []
