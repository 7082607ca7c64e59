"""What a pool child uses between two attempts, in a process of its own: whose it is."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from taskwatt.segments import SegmentReader
from tests.support.processes import REPOSITORY, clean_environ
from tests.support.segments import killed_process

pytestmark = pytest.mark.usefixtures("carrier")

WAITED = """
import time
from time import process_time
from taskwatt.export.context import env_sampler
from taskwatt_celery.carriers import recorders
from taskwatt_celery.outcome import USEFUL
from tests.support.tasks import burn_for

def attempt(seconds, meanwhile=lambda: None):
    "An attempt that never comes to a body of its own."
    run = recorder.begin("tests.add", "1", {"id": "1"}, b"[]")
    meanwhile()
    burn_for(seconds)
    recorder.end(run, USEFUL, 1, "1")

recorder = recorders()(segment, env_sampler())
attempt(0.0)
"""
"""A child that has one attempt behind it."""


def test_what_a_child_used_while_it_waited_is_not_charged_to_an_attempt_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "1-1.seg"
    killed_process(path, WAITED + "burn_for(0.1)\nrecorder.begin('tests.add', '2', {'id': '2'}, b'[]')")

    reader = SegmentReader(path)
    running, progress = reader.in_flight(ended=True), reader.progress()
    assert running is not None
    assert running.cpu_at_start - progress.cpu_at_exit >= 0.1


def test_what_a_child_used_while_it_waited_is_no_business_of_an_attempt_without_a_body(tmp_path: Path) -> None:
    business, framework, none = books(tmp_path, "burn_for(0.1)\nattempt(0.2)")

    assert (0.2 <= business < 0.25, 0.1 <= framework < 0.15, none < 0.001) == (True, True, True)


def test_a_thread_that_python_knows_nothing_of_is_booked_to_nobody_between_attempts(tmp_path: Path) -> None:
    """As a library's pool is, which spins on when the attempt that used it has ended."""
    pool = """
    import _thread

    go, done = _thread.allocate_lock(), _thread.allocate_lock()
    go.acquire()
    done.acquire()

    def spin():
        with go:
            burn_for(0.1)
        done.release()

    attempt(0.01, lambda: _thread.start_new_thread(spin, ()))
    go.release()
    done.acquire()
    attempt(0.01)
    """
    business, framework, none = books(tmp_path, textwrap.dedent(pool))

    assert (business < 0.03, framework < 0.03, 0.1 <= none < 0.15) == (True, True, True)


def books(folder: Path, script: str) -> tuple[float, float, float]:
    """CPU seconds after `script`: business and framework of the last attempt, and what is nobody's."""
    source = f"""
import sys, json
from pathlib import Path
from taskwatt.segments import SegmentReader, SegmentWriter, layout
segment = SegmentWriter(Path(sys.argv[1]), layout.CHILD, "worker")
{WAITED}
{script}
reader = SegmentReader(segment.path, segment.descriptor)
last = layout.Record.unpack(reader.drain()[-1].payload)
print(json.dumps([last.business, last.framework, reader.progress().none_cpu]))
"""
    done = subprocess.run(
        [sys.executable, "-c", source, str(folder / "1-1.seg")],
        cwd=REPOSITORY,
        env=clean_environ(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    business, framework, none = json.loads(done.stdout)
    return business, framework, none
