"""The pipeline between the journal and a real receiver: one record that cannot be told holds up no other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from taskwatt.export.history import HistoryWriter
from taskwatt.export.pipeline import Pipeline
from taskwatt.gauges import Reading
from taskwatt.journal import Journal
from taskwatt.observations import ProcessClass
from taskwatt.segments.reader import Drained
from taskwatt.windows.ledger import Ledger
from tests.support.processes import wait_for
from tests.support.receiver import Receiver
from tests.support.segments import record


class Idle:
    """What the instruments of an agent that has seen no attempt read."""

    ledger = Ledger()
    readings: Sequence[Reading] = (Reading("taskwatt.cpu.effective", 2.0, {}),)

    def __init__(self) -> None:
        self.dropped: dict[str, int] = {}

    def incidents_active(self) -> Iterable[tuple[str, str]]:
        return ()

    def unattributed(self) -> Iterable[tuple[ProcessClass, float]]:
        return ()

    def run_delay(self) -> Iterable[tuple[str, float]]:
        return ()


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
    pipeline = Pipeline(
        idle,
        journal,
        HistoryWriter(tmp_path / "history", "agent"),
        service="shop",
        excluded=lambda _: False,
        incident_of=lambda _: None,
        code_of=lambda _: None,
        environ=os.environ,
    )
    pipeline.start()
    wait_for(lambda: journal.waiting == 0, what="an empty journal")
    pipeline.stop()
    names = sorted(int(span.name.removeprefix("run/task ")) for span in receiver.spans)
    assert names == [*range(1, 40), *range(42, 60)]
    assert idle.dropped == {"span": 1}
    (line,) = [one.getMessage() for one in caplog.records if one.name == "taskwatt"]
    assert line.startswith("taskwatt dropped a span that cannot be encoded")
    journal.close()
