"""A receiver that refuses, hangs, forgets to answer or is never there: the application does not notice, and waits for
nobody; what fits the journal's bound arrives, the rest is counted.
"""

from __future__ import annotations

import time

from tests.loss.books import Told, Truth, nothing_is_lost
from tests.loss.conftest import StartWorker
from tests.support.processes import wait_for
from tests.support.receiver import Receiver

TINY = "taskwatt.journal.MAX_BYTES=32768 taskwatt.journal.CHUNK_BYTES=8192"
"""Room for about a hundred attempts instead of 45,000."""


def test_nothing_is_lost_while_the_collector_refuses_for_20_s_at_200_attempts_a_second(
    start: StartWorker, truth: Truth, told: Told, receiver: Receiver
) -> None:
    worker = start()
    receiver.refusing = True
    began = time.monotonic()
    for number in range(4000):
        worker.send("finish")
        time.sleep(max(0.0, began + number / 200 - time.monotonic()))
    truth.wait_for_finished(4000)
    assert told.spans == {}
    receiver.refusing = False
    nothing_is_lost(truth, told, 4000, 60)
    assert told.dropped.get("journal", 0) == 0


def test_deltas_of_a_refused_export_arrive_with_the_next(
    start: StartWorker, truth: Truth, told: Told, receiver: Receiver
) -> None:
    worker = start(OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta", OTEL_EXPORTER_OTLP_TIMEOUT="1")
    for _ in range(3):
        receiver.refusing = True
        receiver.requests = 0
        before = len(truth.finished)
        for _ in range(17):
            worker.send("finish")
        truth.wait_for_finished(before + 17)
        wait_for(lambda: receiver.requests >= 4, 30, "some refused requests")
        receiver.refusing = False
        nothing_is_lost(truth, told, before + 17)


def test_a_span_that_the_receiver_took_without_a_word_comes_again_with_the_same_ids(
    start: StartWorker, truth: Truth, told: Told, receiver: Receiver
) -> None:
    worker = start(OTEL_EXPORTER_OTLP_TIMEOUT="1")
    receiver.hanging_s = 2
    for _ in range(23):
        worker.send("finish")
    truth.wait_for_finished(23)
    wait_for(lambda: len(receiver.received) > len(receiver.spans), 30, "a repeated span")
    receiver.hanging_s = 0
    nothing_is_lost(truth, told, 23)


def test_a_receiver_that_never_answers_does_not_hold_up_the_end_and_misses_nothing(
    start: StartWorker, truth: Truth, told: Told, receiver: Receiver
) -> None:
    worker = start()
    receiver.hanging_s = 3600
    for _ in range(37):
        worker.send("finish")
    truth.wait_for_finished(37)
    assert worker.end() == 0
    assert told.spans == {}
    assert list((worker.directory / "agents").glob("*/journal-*.bin"))
    receiver.hanging_s = 0
    worker.start()
    nothing_is_lost(truth, told, 37)


def test_what_exceeds_the_journal_is_counted_and_the_ledger_stays_exact(
    start: StartWorker, truth: Truth, told: Told, receiver: Receiver
) -> None:
    receiver.refusing_spans = True
    worker = start(TEST_CONSTANTS=TINY)
    for _ in range(701):
        worker.send("finish")
    truth.wait_for_finished(701)
    wait_for(lambda: told.counted == 701, 30, "a count of every attempt")
    wait_for(lambda: told.dropped.get("journal", 0) > 500, 30, "counted drops")
    receiver.refusing_spans = False
    wait_for(lambda: len(told.spans) + told.dropped["journal"] == 701, 30, "every attempt as a span or as a drop")
    assert set(told.spans.values()) == {1}
    assert told.counted == 701
    kept = sum(path.stat().st_size for path in (worker.directory / "agents").glob("*/journal-*.bin"))
    assert kept <= 32768 + 8192
    worker.end()
    assert len(told.spans) + told.dropped["journal"] == 701


def test_what_no_encoding_can_hold_is_sent_as_text_that_can(start: StartWorker, truth: Truth, told: Told) -> None:
    worker = start()
    for _ in range(3):
        worker.send("finish")
        worker.send("finish_spitefully")
    truth.wait_for_finished(6)
    wait_for(lambda: len(told.receiver.spans) == 6, 30, "a span of every attempt")
    (span, *_) = told.receiver.named("run/?")
    assert (span.attributes["text"], span.attributes["number"]) == ("half a character: ?", str(1 << 70))
    assert (span.status, span.status_message) == (2, "?")
    wait_for(lambda: told.counted == 6, 30, "a count of every attempt")
