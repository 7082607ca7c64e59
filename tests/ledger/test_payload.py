"""A message of 3 MB to a task that only counts: nearly all of its CPU is in getting the message there."""

from __future__ import annotations

import json

import pytest

from tests.ledger.measuring import Measure
from tests.ledger.payloads import payload

pytestmark = pytest.mark.alone

MESSAGES = 12
ENTRIES = 50_000


def test_the_serialization_of_a_3_mb_message_is_seen_in_the_main_process_and_in_the_child(measure: Measure) -> None:
    """The truth is derived: `weigh` makes the same calls on the same bytes, in the same minute on the same machine (how
    fast a core decodes differs twofold with what the other one does), and notes what they took by its own clock.
    Everything else that is done with the bytes (base64, pickle, sockets) is no serialization in the ledger's sense.
    """
    sent = payload(ENTRIES)
    assert len(json.dumps(sent)) > 3_000_000
    run = measure("--concurrency", "1")
    for _ in range(MESSAGES):
        run.worker.send("length", sent)
        run.worker.send("weigh", ENTRIES)
    run.settled(2 * MESSAGES)
    measured = run.end()
    truth = measured.noted("tests.weigh")

    assert measured.attempts == {("tests.length", "useful"): MESSAGES, ("tests.weigh", "useful"): MESSAGES}
    assert -0.01 <= measured.unattributed <= 0.10
    assert measured.ledger() == pytest.approx(measured.reported_s, rel=0.01)
    # One message may be on its way between two looks of the agent, and then be booked to nobody.
    booked = measured.ledger("tests.length", activity="serialization") + measured.ledger("", activity="serialization")
    assert booked == pytest.approx(truth, rel=0.3)
    assert measured.ledger("", activity="serialization") <= 1.5 * truth / MESSAGES
    assert measured.ledger("tests.length", activity="business") <= 0.01 * truth
