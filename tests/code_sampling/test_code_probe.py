"""An attempt that never returns is read from outside, by the real py-spy where it may."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskwatt import code_probe
from taskwatt.code_probe import NOT_INSTALLED, NOT_PERMITTED, NOTHING_SEEN, executable, main_line, probe
from taskwatt.code_site import Line
from taskwatt.observations import CodeSite

LOOP = """\
import sys

def forever(x):
    print("on", flush=True)
    while True:
        x = x + 1 if x < 9 else 0

forever(0)
"""


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[tuple[int, str]]:
    script = tmp_path / "endless.py"
    script.write_text(LOOP)
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    yield process.pid, str(script)
    process.kill()
    process.communicate()


def test_the_line_of_an_endless_loop_is_named(endless: tuple[int, str]) -> None:
    if executable() is None:
        pytest.skip("py-spy is not installed")
    pid, file = endless
    site = probe(pid, "endless")
    if site == NOT_PERMITTED:
        pytest.skip("this system does not permit one process to read another")
    assert isinstance(site, CodeSite)
    assert (site.task, site.function, site.file) == ("endless", "forever", file)
    assert site.line in (5, 6)


def test_a_process_that_is_gone_gives_a_reason() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert isinstance(probe(process.pid), str)


def test_without_py_spy_the_reason_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_probe, "executable", lambda: None)
    assert probe(1) == NOT_INSTALLED
    assert "taskwatt[pyspy]" in NOT_INSTALLED


def test_a_refusal_is_told_apart_and_not_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refusing = tmp_path / "py-spy"
    asked = tmp_path / "asked"
    refusing.write_text(f"#!/bin/sh\necho x >> {asked}\necho 'Permission Denied: Try running again' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setattr(code_probe, "executable", lambda: str(refusing))
    assert probe(1) == NOT_PERMITTED
    assert asked.read_text() == "x\n"


def thread(line: int, **more: Any) -> dict[str, Any]:
    frame = {"name": "work", "filename": "/srv/shop/tasks.py", "line": line}
    return {"os_thread_id": 7, "thread_name": None, "active": True, "owns_gil": True, "frames": [frame], **more}


def test_only_the_main_thread_counts_and_only_while_it_runs() -> None:
    other = thread(1, os_thread_id=8)
    assert main_line([other, thread(5)], 7) == Line("work", "/srv/shop/tasks.py", 5)
    assert main_line([other, thread(5, active=False, owns_gil=False)], 7) is None
    assert main_line([other], 7) is None


def test_the_most_frequent_line_of_several_dumps_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_probe, "INTERVAL_S", 0.0)
    lines = iter([5, 6, 6, 5, 6, 9])
    site = probe(7, "shop.work", dump=lambda pid: [thread(next(lines))])
    assert site == CodeSite("shop.work", "work", "/srv/shop/tasks.py", 6, 0.5, 6)


def test_a_main_thread_that_only_waits_has_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_probe, "INTERVAL_S", 0.0)
    assert probe(7, dump=lambda pid: [thread(5, active=False, owns_gil=False)]) == NOTHING_SEEN
