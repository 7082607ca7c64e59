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
from pathlib import Path
from typing import Any

import pytest

from taskwatt.cli import top, triage
from taskwatt.report.freshness import current

SECOND = 1_000_000_000


def told(document: dict[str, Any], *, ago_s: float = 0.0, identity: str = "one") -> dict[str, Any]:
    return {**document, "agent": {"identity": identity, "updated_ns": time.time_ns() - int(ago_s * SECOND)}}


def write(directory: Path, document: dict[str, Any]) -> None:
    folder = directory / "agents" / document["agent"]["identity"]
    folder.mkdir(parents=True)
    (folder / "latest.json").write_text(json.dumps(document))


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
    assert (captured.out, captured.err) == ("", f"{triage.NOTHING_SEEN}\n" * 2)
    assert "TASKWATT_ENABLED=1" in triage.NOTHING_SEEN


def test_a_finding_exits_1_and_prints_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], storm: dict[str, Any]
) -> None:
    write(tmp_path, told(storm))
    assert run(triage, "--dir", str(tmp_path)) == 1
    assert "CRITICAL  retry_storm (immediate) in worker" in capsys.readouterr().out


def test_a_healthy_worker_exits_0(tmp_path: Path, capsys: pytest.CaptureFixture[str], idle: dict[str, Any]) -> None:
    write(tmp_path, told(idle))
    assert run(triage, "--dir", str(tmp_path)) == 0
    assert "Nothing found" in capsys.readouterr().out


def test_without_dir_the_directory_of_the_environment_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storm: dict[str, Any]
) -> None:
    write(tmp_path, told(storm))
    monkeypatch.setenv("TASKWATT_DIR", str(tmp_path))
    assert run(triage) == 1


def test_json_is_the_document_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], storm: dict[str, Any]
) -> None:
    write(tmp_path, told(storm))
    assert run(triage, "--json", "--dir", str(tmp_path)) == 1
    assert json.loads(capsys.readouterr().out) == storm


def test_top_once_prints_one_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str], storm: dict[str, Any]) -> None:
    write(tmp_path, told(storm))
    assert run(top, "--once", "--dir", str(tmp_path)) == 0
    assert capsys.readouterr().out.count("taskwatt ·") == 1


def test_a_document_of_the_past_does_not_add_to_the_present(storm: dict[str, Any], idle: dict[str, Any]) -> None:
    now, before = told(idle), told(storm, ago_s=60, identity="two")
    assert current([now, before], time.time_ns()) == [now]


def test_with_no_living_agent_the_last_one_is_told_as_ended(storm: dict[str, Any], idle: dict[str, Any]) -> None:
    last, older = told(storm, ago_s=60), told(idle, ago_s=600, identity="two")
    (shown,) = current([older, last], time.time_ns())
    assert shown["findings"] == storm["findings"]
    assert {process["alive"] for process in shown["processes"]} == {False}


def test_a_document_of_another_schema_is_left_out(storm: dict[str, Any]) -> None:
    assert current([{}, told({**storm, "schema": "taskwatt.triage/2"})], time.time_ns()) == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_leaving_top_gives_the_terminal_back(tmp_path: Path, storm: dict[str, Any], ending: signal.Signals) -> None:
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
