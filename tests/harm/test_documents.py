"""Whatever lies where the newest verdicts are looked for: `triage` and `top` show what they can and never fail."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskwatt.cli.main import main
from taskwatt.history import EVENT
from taskwatt.report.triage import SCHEMA, document
from taskwatt.rules import evaluate
from taskwatt.windows import HostWindow, TaskWindow, Window

GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "half a document": b'{"schema": "taskwatt.triage/1", "win',
    "a list": b"[1, 2]",
    "null": b"null",
    "not UTF-8": b"\xff\xfe{}",
    "very deep": b"[" * 200_000,
    "a very long number": b'{"schema": "taskwatt.triage/1", "window_s": ' + b"9" * 10_000 + b"}",
    "another schema": b'{"schema": "taskwatt.triage/2", "agent": {"updated_ns": 9e18}}',
    "only a schema": json.dumps({"schema": SCHEMA}).encode(),
    "an agent that is a list": json.dumps({"schema": SCHEMA, "agent": []}).encode(),
    "an update that is no number": json.dumps({"schema": SCHEMA, "agent": {"updated_ns": "now"}}).encode(),
    "not a number": b'{"schema": "taskwatt.triage/1", "agent": {"updated_ns": NaN}, "window_s": Infinity}',
}


def good() -> dict[str, Any]:
    """What an agent wrote a moment ago."""
    window = Window(
        seconds=10.0,
        process_class="worker",
        tasks=(TaskWindow("shop.mail", "worker", attempts={"useful": 40}, firsts=40, cpu={"useful": 4.0}),),
        host=HostWindow(effective_cpus=2, own_cpu=0.4, own_run_delay=0.0),
        cpu_total=4.1,
        cpu_none=0.1,
        cpu_unattributed=0.0,
        ledger={("shop.mail", "useful", "business"): 4.0, ("", "none", "framework"): 0.1},
    )
    windows = {10.0: window}
    found = document(windows=windows, findings=evaluate(windows), incidents=(), processes=())
    return {**found, "agent": {"identity": "good", "updated_ns": time.time_ns(), "pid": 1}}


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A directory with one good document in its history."""
    path = tmp_path / "runtime"
    (path / "history").mkdir(parents=True)
    (path / "agents" / "dead").mkdir(parents=True)
    (path / "history" / "good.jsonl").write_bytes(line(good()))
    return path


def line(body: Any) -> bytes:
    record = {"eventName": EVENT, "body": {"stringValue": json.dumps(body)}}
    return json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}).encode() + b"\n"


def shown(runtime: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the commands say: their text, none of it from an exception."""
    said: list[str] = []
    for command in (["triage"], ["triage", "--json"], ["top", "--once"]):
        assert main([*command, "--dir", str(runtime)]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        said.append(captured.out)
    return said


@pytest.mark.parametrize("kind", GARBAGE)
def test_a_document_that_makes_no_sense_is_left_out(
    runtime: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (runtime / "agents" / "dead" / "latest.json").write_bytes(GARBAGE[kind])
    text = GARBAGE[kind].decode("utf-8", "replace")
    (runtime / "history" / "bad.jsonl").write_bytes(
        GARBAGE[kind].replace(b"\n", b"") + EVENT.encode() + b"\n" + line(text) + line(None) + EVENT.encode() + b"{\n"
    )
    assert all("shop.mail" in said for said in shown(runtime, capsys))


def test_a_good_document_is_found_behind_a_torn_last_line(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = runtime / "history" / "good.jsonl"
    history.write_bytes(history.read_bytes() + line(good())[:200])
    assert all("shop.mail" in said for said in shown(runtime, capsys))


def test_any_part_of_a_document_may_be_missing_or_something_else(
    runtime: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another version's documents: each place of a good one in turn replaced by each kind of value, or taken away."""
    dice = random.Random(23)
    replacements: tuple[Any, ...] = (None, 0, -1.5, "text", [], {}, [None], {"text": []}, True, 10**30, "\ud800\x1b[2J")
    path = runtime / "agents" / "dead" / "latest.json"
    places = list(_places(good()))
    assert len(places) > 100
    for place in places:
        spoiled = good()
        spoiled["agent"]["identity"] = "spoiled"
        inner: Any = spoiled
        for key in place[:-1]:
            inner = inner[key]
        if dice.random() < 0.3:
            del inner[place[-1]]
        else:
            inner[place[-1]] = dice.choice(replacements)
        path.write_text(json.dumps(spoiled))
        assert main(["triage", "--dir", str(runtime)]) in (0, 1), place
        assert main(["triage", "--json", "--dir", str(runtime)]) in (0, 1), place
        assert main(["top", "--once", "--dir", str(runtime)]) == 0, place
        assert capsys.readouterr().err == ""


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = [path] if path else []
    if isinstance(value, dict):
        return found + [place for key in value for place in _places(value[key], (*path, key))]
    if isinstance(value, list):
        return found + [place for index in range(len(value)) for place in _places(value[index], (*path, index))]
    return found


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 10 << 30)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [_fifo, _sparse, _loop, Path.mkdir], ids=["fifo", "sparse", "loop", "directory"])
def test_what_is_no_file_is_not_waited_for(runtime: Path, make: Callable[[Path], None]) -> None:
    """In a process of its own, so that one which waits for ever is a failure of this test only."""
    make(runtime / "agents" / "dead" / "latest.json")
    make(runtime / "agents" / "dead" / "owner.seg")
    make(runtime / "history" / "odd.jsonl")
    done = subprocess.run(
        [sys.executable, "-m", "taskwatt", "triage", "--dir", str(runtime)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "shop.mail" in done.stdout
