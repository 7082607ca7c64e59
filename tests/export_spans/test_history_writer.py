"""The local history: whole lines of OTLP-JSON, within a bound, and never an exception."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

from taskwatt import history
from taskwatt.export import history as module
from taskwatt.export.history import HistoryWriter


def lines(writer: HistoryWriter) -> list[dict[str, Any]]:
    return [json.loads(line) for line in writer.path.read_text().splitlines()]


def verdicts(writer: HistoryWriter, number: int) -> None:
    writer.verdicts({"schema": "taskwatt.triage/1", "number": number, "agent": {"identity": writer.path.stem}}, {})


def test_verdicts_are_a_log_record_that_the_reader_finds_again(tmp_path: Path) -> None:
    writer = HistoryWriter(tmp_path / "history", "agent-1")
    writer.verdicts({"agent": {"identity": "agent-1"}, "ratio": 0.5}, {"service.name": "shop"})
    (line,) = lines(writer)
    (resource_logs,) = line["resourceLogs"]
    assert resource_logs["resource"]["attributes"] == [{"key": "service.name", "value": {"stringValue": "shop"}}]
    assert history.documents(tmp_path).ended == [{"agent": {"identity": "agent-1"}, "ratio": 0.5}]


def test_the_newest_verdicts_of_each_agent_are_found_also_behind_torn_lines(tmp_path: Path) -> None:
    for name in ("agent-1", "agent-2"):
        writer = HistoryWriter(tmp_path / "history", name)
        for number in range(3):
            verdicts(writer, number)
        with writer.path.open("ab") as file:
            file.write(b'{"resourceLogs": [{"taskwatt.triage')
    found = {one["agent"]["identity"]: one["number"] for one in history.documents(tmp_path).ended}
    assert found == {"agent-1": 2, "agent-2": 2}


def test_what_ended_long_ago_is_left_out(tmp_path: Path) -> None:
    writer = HistoryWriter(tmp_path / "history", "agent-1")
    verdicts(writer, 1)
    long_ago = time.time() - history.RECENT_S - 60
    os.utime(writer.path, (long_ago, long_ago))
    assert history.documents(tmp_path) == ([], [])


def test_metrics_are_otlp_json(tmp_path: Path) -> None:
    writer = HistoryWriter(tmp_path, "agent-1")
    reader = PeriodicExportingMetricReader(writer.metric_exporter(), export_interval_millis=float("inf"))
    provider = MeterProvider([reader], shutdown_on_exit=False)
    reader.collect()
    assert not writer.path.exists()  # nothing to say is no line
    provider.get_meter("taskwatt").create_counter("celery.task.attempts", "{attempt}", "x").add(23)
    reader.collect()
    (metric,) = lines(writer)[0]["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
    assert (metric["name"], metric["sum"]["dataPoints"][0]["asInt"]) == ("celery.task.attempts", "23")
    provider.shutdown()


def test_a_file_rolls_over_once_and_all_stay_within_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 2_000)
    monkeypatch.setattr(module, "ALL_BYTES", 5_000)
    for name in ("agent-1", "agent-2", "agent-3"):
        writer = HistoryWriter(tmp_path, name)
        for number in range(30):
            verdicts(writer, number)
        seconds = time.time() - 100 + int(name[-1])
        for path in tmp_path.glob(f"{name}*"):
            os.utime(path, (seconds, seconds))
    HistoryWriter(tmp_path, "agent-4")
    left = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sum(left.values()) <= 5_000
    assert {"agent-3.1.jsonl"} <= set(left) <= {f"agent-{n}{end}" for n in (2, 3) for end in (".jsonl", ".1.jsonl")}


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from taskwatt.export.history import HistoryWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = HistoryWriter(Path(sys.argv[1]), "agent-1")
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
for number in range(3):
    writer.append({"number": number, "text": "x" * 80})
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
writer.append({"number": 3})
print(writer.dropped)
"""


def test_a_full_disk_loses_lines_counts_them_and_leaves_none_torn(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    numbers = [json.loads(line)["number"] for line in (tmp_path / "agent-1.jsonl").read_text().splitlines()]
    assert (numbers, done.stdout) == ([0, 3], "2\n")


def test_a_folder_that_cannot_be_made_counts_and_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    writer = HistoryWriter(tmp_path / "file" / "history", "agent-1")
    verdicts(writer, 1)
    assert writer.dropped == 2
