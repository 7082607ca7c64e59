"""The pipeline between the journal and a real receiver: one record that cannot be told holds up no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from taskwatt.incidents import Incident, Transition
from taskwatt.journal import Journal
from taskwatt.observations import OUTCOMES
from taskwatt.rules import Finding
from taskwatt.segments.reader import Drained
from taskwatt.windows import HostWindow, Window
from tests.support.pipeline import Idle, pipeline_of
from tests.support.processes import wait_for
from tests.support.receiver import Receiver
from tests.support.segments import START_NS, record


def drained(sequence: int, data: object = None, payload: bytes | None = None) -> Drained:
    raw = json.dumps(data).encode() if data is not None else b""
    payload = payload or record(span_id=sequence.to_bytes(8, "big"))
    return Drained("a/b", sequence, payload, f"task {sequence}", "celery", "", raw)


def test_records_that_cannot_be_told_are_dropped_counted_and_passed(
    tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    journal = Journal(tmp_path)
    journal.append([drained(number) for number in range(1, 40)])
    journal.append([drained(40, {"events": [["hostile", 2**70, {}]]}), drained(41, payload=record(kind=99))])
    journal.append([drained(number) for number in range(42, 60)])
    idle = Idle()
    pipeline = pipeline_of(idle, journal, tmp_path)
    pipeline.start()
    wait_for(lambda: journal.waiting == 0, what="an empty journal")
    pipeline.stop()
    names = sorted(int(span.name.removeprefix("run/task ")) for span in receiver.spans)
    assert names == [*range(1, 40), *range(42, 60)]
    assert idle.dropped == {"span": 1}
    (line,) = [one.getMessage() for one in caplog.records if one.name == "taskwatt"]
    assert line.startswith("taskwatt dropped a span that cannot be encoded")
    journal.close()


def test_an_incident_links_to_attempts_that_are_marked_and_sent_before_it(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    journal = Journal(tmp_path)
    useful = [record(span_id=number.to_bytes(8, "big"), outcome=OUTCOMES.index("useful")) for number in range(1, 9)]
    journal.append([Drained("a/b", number, one, "shop.charge", "", "", b"") for number, one in enumerate(useful, 1)])
    pipeline = pipeline_of(Idle(), journal, tmp_path, lambda _: "inc-1")
    told = Finding("never_settles", "found", "worker", "A sentence.", task="shop.charge", wasted_cores=1.0)
    incident = Incident("inc-1", "print", told, "critical", START_NS, START_NS, 1, "opened")
    window = Window(10.0, "worker", (), HostWindow(2, 1.0, 0.0), cpu_total=9.0, cpu_none=0.0, cpu_unattributed=0.0)
    pipeline.tell(Transition("opened", incident), window)
    pipeline.start()
    wait_for(lambda: receiver.named("taskwatt.finding never_settles"), what="the incident")
    pipeline.stop()
    (marked,) = [one for one in receiver.named("run/shop.charge") if "taskwatt.keep" in one.attributes]
    (span,) = receiver.named("taskwatt.finding never_settles")
    assert span.links == ((marked.trace_id, marked.span_id),)
    journal.close()
