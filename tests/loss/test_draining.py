"""A process that dies between two instructions of ours: what it did is found once, whichever two they were."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from taskwatt.drainer import Drainer
from taskwatt.journal import Journal
from taskwatt.segments import AgentDirectory

WRITE = """
import os, sys
from pathlib import Path
from taskwatt.segments import AgentDirectory, SegmentWriter, layout

directory = AgentDirectory(Path(sys.argv[1]))
writer = SegmentWriter(directory.child_segment(os.getpid()), layout.CHILD, "worker")
task, queue = writer.string("tests.finish"), writer.string("celery")

def payload(number, duration):
    return layout.RECORD.pack(
        layout.ATTEMPT, layout.SAMPLED, task, b"%036d" % number, bytes(16), bytes(8), bytes(8), bytes(16), bytes(8),
        1, 0.0, number, 0, 0, 0, 0, queue, 0, layout.NO_STRING, duration, 0.0, *(0.0,) * 6, 0, 1, 1, 0, 0)

for number in (1, 2, 3):
    writer.begin(payload(number, 0.0), number, 0.0, 0.0)
    before = os.pread(writer.descriptor, layout.PROGRESS.size, layout.PROGRESS_AT)
    writer.put(payload(number, 1.0), number, 0.0)
os.pwrite(writer.descriptor, before, layout.PROGRESS_AT)  # the record was written, and the process said no more
os._exit(0)
"""


def test_an_attempt_whose_record_is_the_last_thing_a_process_wrote_is_settled_once(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", WRITE, str(tmp_path)], check=True)
    drainer = Drainer(AgentDirectory(tmp_path), Journal(tmp_path), {}, lambda _: None)
    settled = drainer.collect().settled
    assert [(one.attempt.task_id[-1], one.attempt.outcome) for one in settled] == [
        ("1", "useful"),
        ("2", "useful"),
        ("3", "useful"),
    ]
    assert drainer.journal.last == 3
