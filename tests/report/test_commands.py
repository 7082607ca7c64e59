"""The two commands on a real runtime directory; the terminal is a real pseudo-terminal."""

from __future__ import annotations

import argparse
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskwatt import history
from taskwatt.cli import top, triage
from taskwatt.report import text
from taskwatt.report.freshness import current
from taskwatt.report.triage import merge
from taskwatt.segments import RuntimeDirectory, SegmentWriter, directory, layout

SECOND = 1_000_000_000
FOUR_PM = 1_764_000_000 * SECOND


def told(document: dict[str, Any], *, ago_s: float = 0.0, identity: str = "one") -> dict[str, Any]:
    return {**document, "agent": {"identity": identity, "updated_ns": time.time_ns() - int(ago_s * SECOND)}}


Write = Callable[[Path, dict[str, Any]], None]


@pytest.fixture(autouse=True)
def hundred_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever terminal the tests run in."""
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def write() -> Iterator[Write]:
    """Leaves the document of an agent that lives: it holds its segment."""
    segments: list[SegmentWriter] = []

    def write(folder: Path, document: dict[str, Any]) -> None:
        segments.append(SegmentWriter(left(folder, document) / "owner.seg", layout.OWNER, "worker"))

    yield write
    for segment in segments:
        segment.close()


def left(runtime: Path, document: dict[str, Any]) -> Path:
    """The folder of an agent that has died since it wrote this."""
    folder = runtime / "agents" / str(document["agent"]["identity"])
    folder.mkdir(parents=True)
    (folder / "latest.json").write_text(json.dumps(document))
    return folder


def run(command: Any, *words: str) -> int:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    code = command.main(parser.parse_args(words))
    assert isinstance(code, int)
    return code


def test_a_machine_without_an_agent_is_not_called_healthy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(triage, "--dir", str(tmp_path)) == 2
    assert run(top, "--once", "--dir", str(tmp_path)) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"{triage.NOTHING_SEEN} Only {tmp_path} was read.\n" * 2)
    assert "TASKWATT_ENABLED=1" in triage.NOTHING_SEEN


def test_a_finding_exits_1_and_prints_the_screen(
    tmp_path: Path, write: Write, capsys: pytest.CaptureFixture[str], storm: dict[str, Any]
) -> None:
    write(tmp_path, told(storm))
    assert run(triage, "--dir", str(tmp_path)) == 1
    assert "CRITICAL  retry_storm (immediate) in worker" in capsys.readouterr().out


def test_a_healthy_worker_exits_0(
    tmp_path: Path, write: Write, capsys: pytest.CaptureFixture[str], idle: dict[str, Any]
) -> None:
    write(tmp_path, told(idle))
    assert run(triage, "--dir", str(tmp_path)) == 0
    assert "Nothing found" in capsys.readouterr().out


def test_without_dir_the_directory_of_the_environment_is_read(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch, storm: dict[str, Any]
) -> None:
    write(tmp_path, told(storm))
    monkeypatch.setenv("TASKWATT_DIR", str(tmp_path))
    assert run(triage) == 1


def test_json_is_the_document_and_nothing_else(
    tmp_path: Path, write: Write, capsys: pytest.CaptureFixture[str], storm: dict[str, Any]
) -> None:
    write(tmp_path, told(storm))
    assert run(triage, "--json", "--dir", str(tmp_path)) == 1
    assert json.loads(capsys.readouterr().out) == storm


@pytest.mark.parametrize("configured", ["empty", "nowhere"])
def test_where_a_directory_is_configured_no_other_one_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    write: Write,
    storm: dict[str, Any],
    configured: str,
) -> None:
    monkeypatch.setattr(directory, "SHARED_MEMORY", tmp_path)
    usual, _ = RuntimeDirectory.open(None)
    write(usual.path, told(storm))
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("TASKWATT_DIR", str(tmp_path / configured))
    assert (run(triage), run(top, "--once")) == (2, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"{triage.NOTHING_SEEN} Only {tmp_path / configured} was read.\n" * 2
    monkeypatch.delenv("TASKWATT_DIR")
    assert run(triage) == 1


def test_top_once_prints_one_frame(
    tmp_path: Path, write: Write, capsys: pytest.CaptureFixture[str], storm: dict[str, Any]
) -> None:
    write(tmp_path, told(storm))
    assert run(top, "--once", "--dir", str(tmp_path)) == 0
    assert capsys.readouterr().out.count("taskwatt ·") == 1


def test_a_document_of_the_past_does_not_add_to_the_present(storm: dict[str, Any], idle: dict[str, Any]) -> None:
    now, before = told(idle), told(storm, ago_s=60, identity="two")
    assert current([now, before], [], time.time_ns()) == [now]


def test_an_agent_that_ended_a_second_ago_does_not_add_to_those_that_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Write, storm: dict[str, Any], idle: dict[str, Any]
) -> None:
    write(tmp_path, told(idle))
    left(tmp_path, told(storm, ago_s=1, identity="two"))
    assert run(triage, "--json", "--dir", str(tmp_path)) == 0
    assert json.loads(capsys.readouterr().out) == idle


def test_with_no_living_agent_the_last_one_is_told_as_ended(storm: dict[str, Any], idle: dict[str, Any]) -> None:
    last, older = told(storm), told(idle, identity="two")
    last["agent"]["updated_ns"], older["agent"]["updated_ns"] = FOUR_PM, FOUR_PM - 600 * SECOND
    (shown,) = current([], [older, last], FOUR_PM + 29 * 60 * SECOND)
    assert shown["findings"] == storm["findings"]
    assert {(process["alive"], process["cpu_cores"]) for process in shown["processes"]} == {(False, None)}
    assert (shown["ended_at"], shown["ended_s_ago"]) == ("2025-11-24T16:00:00Z", 29 * 60.0)


def test_agents_that_ended_together_are_one_system_and_its_end_is_the_last(storm: dict[str, Any]) -> None:
    one, two = told(storm), told(storm, identity="two")
    one["agent"]["updated_ns"], two["agent"]["updated_ns"] = FOUR_PM, FOUR_PM - 10 * SECOND
    merged = merge(current([], [two, one], FOUR_PM + 5 * SECOND))
    assert (merged["ended_at"], merged["ended_s_ago"]) == ("2025-11-24T16:00:00Z", 5.0)
    assert len(merged["processes"]) == 4


def test_what_has_ended_is_told_with_its_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], storm: dict[str, Any]
) -> None:
    ended = told(storm, ago_s=1_740)
    left(tmp_path, ended)
    assert run(triage, "--dir", str(tmp_path)) == 1
    at = time.strftime("%H:%M:%S", time.gmtime(ended["agent"]["updated_ns"] // SECOND))
    assert capsys.readouterr().out.splitlines()[:4] == [
        f"taskwatt · worker: 2 processes ended 29 min ago, {at} UTC · 1.00 of 2 CPUs busy · 0.95 wasted ·",
        "  last 10 s before that",
        "Nothing that is watched runs now: all of this was so before the end.",
        "  not seen here: web, scheduler, job",
    ]


def test_a_process_that_lives_and_is_silent_is_not_called_ended(
    tmp_path: Path, write: Write, capsys: pytest.CaptureFixture[str], storm: dict[str, Any]
) -> None:
    silent = told(storm, ago_s=40)
    write(tmp_path, silent)
    assert run(triage, "--dir", str(tmp_path)) == 1
    at = time.strftime("%H:%M:%S", time.gmtime(silent["agent"]["updated_ns"] // SECOND))
    first, _, said, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"taskwatt · worker: 2 processes last heard of 40 s ago, {at} UTC · 1.00 of 2 CPUs busy")
    assert said == text.SILENT


def test_what_ended_more_than_an_hour_ago_is_not_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], storm: dict[str, Any]
) -> None:
    latest = left(tmp_path, told(storm, ago_s=3_700)) / "latest.json"
    long_ago = time.time() - history.RECENT_S - 60
    os.utime(latest, (long_ago, long_ago))
    assert run(triage, "--dir", str(tmp_path)) == 2
    assert capsys.readouterr().out == ""


def test_a_clock_that_was_set_back_puts_no_end_into_the_future(storm: dict[str, Any]) -> None:
    ahead = told(storm, ago_s=-3_600)
    (shown,) = current([], [ahead], FOUR_PM)
    assert (shown["ended_at"], shown["ended_s_ago"]) == ("2025-11-24T16:00:00Z", 0.0)


def test_a_document_of_another_schema_is_left_out(storm: dict[str, Any]) -> None:
    assert current([{}, told({**storm, "schema": "taskwatt.triage/2"})], [{}], time.time_ns()) == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_leaving_top_gives_the_terminal_back(
    tmp_path: Path, write: Write, storm: dict[str, Any], ending: signal.Signals
) -> None:
    write(tmp_path, told(storm))
    program = (
        "import argparse, sys; from taskwatt.cli import top; "
        "parser = argparse.ArgumentParser(); top.configure(parser); sys.exit(top.main(parser.parse_args()))"
    )
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--dir", str(tmp_path)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    os.close(terminal)
    shown = b""
    try:
        while b"retry_storm" not in shown:
            shown += os.read(screen, 65_536)
        process.send_signal(ending)
        while not shown.endswith(top.LEAVE.encode()):
            shown += os.read(screen, 65_536)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(screen)
    assert shown.startswith(top.ENTER.encode())
    assert b"Traceback" not in shown
