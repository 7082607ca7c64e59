"""Which attempts are marked to be kept, on a fake clock."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from taskwatt.export.evidence import EVIDENCE_EVERY_S, LINKS, USUAL_EVERY_S, Evidence
from taskwatt.observations import Attempt
from tests.support.stalls import STALL
from tests.windows.test_ledger import attempt


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def storm() -> Callable[..., Attempt]:
    """A maker of attempts with ids of their own, retried unless they are told otherwise."""
    number = count(1)

    def make(**changed: Any) -> Attempt:
        one = next(number)
        ids = {"trace_id": one.to_bytes(16, "big"), "span_id": one.to_bytes(8, "big")}
        return attempt(**{"outcome": "retried", **ids, **changed})

    return make


def test_the_first_wasted_attempt_of_a_type_is_kept_and_linked_to() -> None:
    evidence, make = Evidence(Clock()), storm()
    first = make(task="a")
    assert evidence.keep(first, False)
    assert not evidence.keep(make(task="a"), False)
    assert evidence.keep(make(task="b"), False)
    assert evidence.of("a") == [(first.trace_id, first.span_id)]


def test_a_storm_of_an_hour_keeps_a_bounded_number_and_links_to_the_newest() -> None:
    clock = Clock()
    evidence, make = Evidence(clock), storm()
    kept: list[Attempt] = []
    for _ in range(36_000):
        one = make(task="a")
        kept += [one] * evidence.keep(one, False)
        clock.now += 0.1
    assert abs(len(kept) - 3600 / EVIDENCE_EVERY_S) <= 4  # of 0.1 s added 36,000 times
    assert evidence.of("a") == [(one.trace_id, one.span_id) for one in kept[-LINKS:]]


def test_a_batch_that_was_refused_is_marked_alike_when_it_is_made_again() -> None:
    evidence, make = Evidence(Clock()), storm()
    batch = [make(task="a") for _ in range(5)]
    assert [evidence.keep(one, False) for one in batch] == [evidence.keep(one, False) for one in batch]
    assert len(evidence.of("a")) == 1


def test_useful_attempts_are_kept_once_a_minute_and_are_no_evidence() -> None:
    clock = Clock()
    evidence, make = Evidence(clock), storm()
    kept = 0
    for _ in range(200):
        kept += evidence.keep(make(task="a", outcome="useful"), False)
        clock.now += 1.0
    assert kept == 1 + 200 // int(USUAL_EVERY_S)
    assert evidence.of("a") == []


def test_a_useful_attempt_is_evidence_while_an_incident_of_its_type_is_open() -> None:
    evidence, make = Evidence(Clock()), storm()
    assert evidence.keep(make(task="a", outcome="useful"), False)
    during = make(task="a", outcome="useful")
    assert evidence.keep(during, True)
    assert evidence.of("a") == [(during.trace_id, during.span_id)]


def test_task_names_without_end_are_forgotten_oldest_first() -> None:
    evidence, make = Evidence(Clock()), storm()
    for number in range(600):
        evidence.keep(make(task=f"task-{number}"), False)
    assert (evidence.of("task-0"), len(evidence.of("task-599"))) == ([], 1)


def test_a_stall_is_evidence_for_an_incident_of_its_type() -> None:
    clock = Clock()
    evidence = Evidence(clock)
    assert evidence.keep(STALL, False)
    assert not evidence.keep(STALL._replace(span_id=b"x" * 8), False)
    assert evidence.of("shop.pay") == [(STALL.trace_id, STALL.span_id)]
    assert evidence.keep(STALL._replace(row="GET /"), False)
    assert evidence.of("GET /") == [(STALL.trace_id, STALL.span_id)]
