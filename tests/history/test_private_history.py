"""The history holds names and exceptions of tasks: it is as private as the segments, also in a place open to all."""

from __future__ import annotations

import json
import os
import stat
import tempfile
import time
from pathlib import Path

import pytest

from taskwatt import history
from taskwatt.export.history import HistoryWriter
from taskwatt.segments import RuntimeDirectory, directory


@pytest.fixture(autouse=True)
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shared memory and a temporary directory of our own."""
    shared = tmp_path / "shm"
    shared.mkdir()
    monkeypatch.setattr(directory, "SHARED_MEMORY", shared)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("TASKWATT_DIR", raising=False)
    return shared


def on_disk(tmp_path: Path) -> Path:
    return tmp_path / f"taskwatt-{os.getuid()}"


def test_the_history_goes_to_disk_where_only_its_user_can_read_it(tmp_path: Path) -> None:
    runtime, refused = RuntimeDirectory.open(None)
    HistoryWriter(runtime.history, "one").append({})
    assert (runtime.history, refused) == (on_disk(tmp_path) / "history", [])
    assert stat.S_IMODE(on_disk(tmp_path).stat().st_mode) == 0o700


def test_making_a_history_does_not_spoil_the_fall_back_for_segments(tmp_path: Path, shared: Path) -> None:
    runtime, _ = RuntimeDirectory.open(None)
    HistoryWriter(runtime.history, "one").append({})
    (shared / f"taskwatt-{os.getuid()}").chmod(0o755)  # refused from now on
    runtime, _ = RuntimeDirectory.open(None)
    assert runtime.path == on_disk(tmp_path)


def test_a_place_on_disk_that_is_open_to_others_is_neither_written_nor_read(tmp_path: Path, shared: Path) -> None:
    foreign = on_disk(tmp_path) / "history"
    foreign.mkdir(parents=True)
    on_disk(tmp_path).chmod(0o777)
    planted = {"agent": {"identity": "planted", "updated_ns": time.time_ns()}}
    HistoryWriter(foreign, "planted").verdicts(planted, {})
    runtime, _ = RuntimeDirectory.open(None)
    assert runtime.history == shared / f"taskwatt-{os.getuid()}" / "history"
    assert history.documents(None) == ([], [])
    assert history.documents(on_disk(tmp_path)).ended == [json.loads(json.dumps(planted))]
