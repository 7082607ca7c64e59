"""Whatever a file in the runtime directory holds: a counted drop, one line, and no wait."""

from __future__ import annotations

import logging
import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource

from taskwatt.drainer import Collected, Drainer
from taskwatt.export.context import env_sampler
from taskwatt.export.spans import SpanFactory
from taskwatt.journal import Journal
from taskwatt.observations import OUTCOMES, STATES
from taskwatt.report.triage import ProcessDescription, document
from taskwatt.segments import AgentDirectory, SegmentWriter, layout
from taskwatt.windows.ledger import Ledger
from taskwatt.windows.tasks import TaskWindows
from taskwatt_celery.attempt import Recorder
from taskwatt_celery.outcome import USEFUL
from tests.harm.conftest import StartWorker
from tests.support.processes import wait_for

ATTEMPTS = 23
NO_PROCESS = (1 << 22) + 7
"""Above the largest pid that Linux gives out."""


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real segment: attempts with spilled ids, totals of the overflow, a line of code, one attempt in flight."""
    path = tmp_path_factory.mktemp("real") / "owner.seg"
    writer = SegmentWriter(path, layout.CHILD, "worker")
    recorder = Recorder(writer, env_sampler())
    for number in range(ATTEMPTS):
        task_id = f"not-a-uuid-{number}"
        run = recorder.begin(f"shop.task_{number % 5}", task_id, {"id": task_id, "retries": number % 3}, b"[]")
        recorder.end(run, USEFUL, STATES.index("SUCCESS"), task_id)
    writer.overflow((0, 1, 1), ATTEMPTS, 1.0, (1.0, 0.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1))
    writer.code(0, 0, "charge", "shop/gateway.py", 41, 0.9, 20)
    recorder.begin("shop.in_flight", "still-running", {"id": "still-running"}, b"[]").scope.leave()
    data = path.read_bytes()
    writer.close()
    return data


@pytest.fixture
def folder(tmp_path: Path) -> AgentDirectory:
    return AgentDirectory(tmp_path)


def old(path: Path) -> None:
    """Older than a file that may still be being made."""
    os.utime(path, (time.time() - 60, time.time() - 60), follow_symlinks=False)


def put(folder: AgentDirectory, data: bytes, *, dead: bool = True, name: str = "1-1.seg") -> Path:
    if dead:
        data = data[:12] + struct.pack("<I", NO_PROCESS) + data[16:]
    path = folder.path / name
    path.write_bytes(data)
    old(path)
    return path


def drain(folder: AgentDirectory) -> Collected:
    """All that two ticks find; then everything that is made of it, so that a figure which cannot be fails here."""
    journal = Journal(folder.path)
    drainer = Drainer(folder, journal, {}, lambda _: None)
    found, later = drainer.collect(), drainer.collect()
    found.settled += later.settled
    for reason, count in later.dropped.items():
        found.dropped[reason] = found.dropped.get(reason, 0) + count
    ledger, tasks = Ledger(), TaskWindows()
    spans = SpanFactory(Resource({}), excluded=lambda _: False, incident_of=lambda _: None, code_of=lambda _: None)
    for process_class, attempt, _ in found.settled:
        ledger.settle(process_class, attempt)
        tasks.fold(process_class, attempt.task, attempt)
        if spans.wanted(attempt):
            encode_spans([spans.span(attempt)])
    for one in found.totals:
        ledger.book_cpu(one.process_class, one.task, one.outcome, one.cpu)
        assert one.attempts < 1 << 62
    described = [
        ProcessDescription(pid, name, "child", None, str(mode), True, created)
        for pid, name, _, mode, created in drainer.processes
    ]
    document(windows={}, findings=(), incidents=(), processes=described)
    assert all(count < 1 << 62 for count in found.dropped.values())
    for seconds in [*ledger.cells.values(), *found.kernel.values(), *found.idle_cpu.values()]:
        assert abs(seconds) < 1e12
    drainer.close()
    journal.close()
    return found


def test_a_segment_that_is_whole_is_read_in_full(folder: AgentDirectory, segment: bytes) -> None:
    """What the damaged ones below are made from."""
    put(folder, segment)
    found = drain(folder)
    assert [one.attempt.task_id for one in found.settled] == [
        *(f"not-a-uuid-{number}" for number in range(ATTEMPTS)),
        "still-running",
    ]
    assert [(one.task, one.attempts) for one in found.totals] == [("shop.task_0", 1)]
    assert found.dropped == {"span_ring_full": 1}
    assert [site.function for site in found.code] == ["charge"]


def _fifo(path: Path, _: bytes) -> None:
    os.mkfifo(path)


def _link(path: Path, segment: bytes) -> None:
    outside = path.parent.parent / "outside.bin"
    outside.write_bytes(segment)
    path.symlink_to(outside)


def _directory(path: Path, _: bytes) -> None:
    path.mkdir()


def _sparse(path: Path, segment: bytes) -> None:
    path.write_bytes(segment)
    os.truncate(path, 10 << 30)


def _written(change: Callable[[bytes], bytes]) -> Callable[[Path, bytes], None]:
    def make(path: Path, segment: bytes) -> None:
        path.write_bytes(change(segment))

    return make


HOSTILE: dict[str, Callable[[Path, bytes], None]] = {
    "empty": _written(lambda _: b""),
    "too short for a header": _written(lambda segment: segment[:40]),
    "cut in the ring": _written(lambda segment: segment[: layout.RING_AT + 1000]),
    "another magic": _written(lambda segment: b"NOTOURS!" + segment[8:]),
    "another version": _written(lambda segment: segment[:8] + struct.pack("<I", 99) + segment[12:]),
    "text": _written(lambda _: b"hello, is this thing on?\n" * 40_000),
    "ten gigabytes of nothing": _sparse,
    "fifo": _fifo,
    "symbolic link": _link,
    "directory": _directory,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_segment_is_counted_once_and_said_once(
    folder: AgentDirectory, segment: bytes, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(folder, segment, name="2-2.seg")
    path = folder.path / "1-1.seg"
    HOSTILE[kind](path, segment)
    old(path)
    found = drain(folder)
    assert (len(found.settled), found.dropped) == (ATTEMPTS + 1, {"span_ring_full": 1, "segment": 1})
    assert [(record.name, record.levelno) for record in caplog.records] == [("taskwatt", logging.WARNING)]
    assert "left out a segment" in caplog.text


def test_a_file_name_that_is_no_text_disturbs_nobody(folder: AgentDirectory, segment: bytes) -> None:
    put(folder, segment, name=os.fsdecode(b"\xff\xfe.seg"))
    assert len(drain(folder).settled) == ATTEMPTS + 1


@pytest.fixture
def within_a_minute() -> Iterator[None]:
    """A hang is a failure and not a test run without an end."""
    import signal

    def ring(*_: Any) -> None:
        raise AssertionError("the reader does not come to an end")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


REGIONS = {
    "identity": (12, layout.PROGRESS_AT),
    "progress": (layout.PROGRESS_AT, layout.COUNTERS_AT),
    "counters": (layout.COUNTERS_AT, layout.READER_AT),
    "reader": (layout.READER_AT, layout.IN_FLIGHT_AT),
    "in flight": (layout.IN_FLIGHT_AT, layout.CODE_AT),
    "code": (layout.CODE_AT, layout.STRINGS_AT),
    "strings": (layout.STRINGS_AT, layout.STRINGS_AT + 200),
    "cells": (layout.CELLS_AT, layout.CELLS_AT + 2 * layout.CELL.size),
    "spill": (layout.SPILL_AT, layout.SPILL_AT + 1200),
    "ring": (layout.RING_AT, layout.RING_AT + (ATTEMPTS + 2) * layout.SLOT),
}


@pytest.mark.parametrize("dead", [True, False])
@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("whole", [False, True], ids=["some bytes", "all bytes"])
def test_flipped_bytes_are_at_worst_a_counted_drop(
    folder: AgentDirectory, segment: bytes, region: str, dead: bool, whole: bool, within_a_minute: None
) -> None:
    """Bytes below 12 say what file it is and are tried above; here the header is right and the rest is not."""
    dice = random.Random(f"{region} {dead} {whole}")
    start, end = REGIONS[region]
    for _ in range(25):
        data = bytearray(segment)
        for at in range(start, end) if whole else [dice.randrange(start, end) for _ in range(dice.randint(1, 8))]:
            data[at] = dice.randrange(256)
        path = put(folder, bytes(data), dead=dead and region != "identity")
        found = drain(folder)
        if region == "ring":
            kept = sum(one.attempt.task_id != "still-running" for one in found.settled)
            assert kept + found.dropped.get("damaged", 0) + found.dropped.get("record", 0) >= ATTEMPTS or not dead
        elif region in {"code", "cells", "strings", "in flight"}:
            assert len(found.settled) >= ATTEMPTS
        for left in (path, *folder.path.glob("journal-*"), folder.path / "marks"):
            left.unlink(missing_ok=True)


def test_records_with_a_right_checksum_and_impossible_figures_are_counted(
    folder: AgentDirectory, segment: bytes, tmp_path: Path, within_a_minute: None
) -> None:
    """What a hostile writer could do: no encoder downstream may meet a figure that it cannot hold."""
    dice = random.Random(7)
    path = tmp_path / "9-9.seg"
    writer = SegmentWriter(path, layout.CHILD, "worker")
    for _ in range(900):
        payload = bytearray(dice.randbytes(layout.RECORD.size))
        payload[0] = layout.ATTEMPT
        if dice.random() < 0.5:
            payload = bytearray(segment[layout.RING_AT + layout.SLOT + layout.HEAD.size :][: layout.RECORD.size])
            at = dice.randrange(4, layout.RECORD.size - 8)
            payload[at : at + 8] = dice.choice([b"\xff" * 8, struct.pack("<d", float("nan")), dice.randbytes(8)])
        assert writer.put(bytes(payload), 0, 0.0)
    data = path.read_bytes()
    writer.close()
    path.unlink()
    put(folder, data)
    found = drain(folder)
    assert len(found.settled) + found.dropped["record"] == 900
    assert found.settled
    assert {one.attempt.outcome for one in found.settled} <= set(OUTCOMES)


def test_a_worker_with_garbage_in_its_directory_says_so_once_and_clears_up(
    worker: StartWorker, segment: bytes, tmp_path: Path
) -> None:
    watched = worker(folder=tmp_path)
    (agent,) = (watched.directory / "agents").iterdir()
    garbage = agent / "5-5.seg"
    garbage.write_bytes(b"garbage" * 1000)
    old(garbage)
    wait_for(lambda: watched.warnings, 15, "a line about the garbage")
    assert watched.app.AsyncResult(watched.send("add", 1, 2)).get(timeout=20) == 3
    time.sleep(2.5)  # more ticks, none of which may say it again
    assert watched.end() == 0
    (line,) = watched.warnings
    assert line.endswith(f"taskwatt left out a segment: {garbage} is not a segment")
    assert list((watched.directory / "agents").iterdir()) == []
