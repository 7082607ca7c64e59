"""Segments as a hook would write them: real files, real mappings, real locks."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path
from typing import Any

from taskwatt.observations import OUTCOMES, STATES, Cpu, Outcome
from taskwatt.segments import SegmentWriter, layout
from taskwatt.segments.layout import Record

NAN = float("nan")
START_NS = 1_764_000_000_000_000_000
TASK_ID = uuid.UUID("12345678-abcd-4678-9234-5678fedc5678")

PLAIN = Record(
    kind=layout.ATTEMPT,
    flags=layout.SAMPLED,
    task=0,
    task_id=str(TASK_ID).encode(),
    trace_id=b"t" * 16,
    span_id=b"s" * 8,
    parent_span_id=layout.NO_SPAN,
    link_trace_id=layout.NO_ID,
    link_span_id=layout.NO_SPAN,
    start_ns=START_NS,
    queue_wait=NAN,
    attempt_no=1,
    body_size=0,
    retries=0,
    depth=0,
    nesting=0,
    queue=0,
    args_hash=0,
    publisher=layout.NO_STRING,
    duration=0.5,
    retry_delay=NAN,
    business=0.25,
    serialization=0.0,
    gc=0.0,
    framework=0.0,
    agent=0.0,
    subprocesses=0.0,
    max_rss=0,
    outcome=OUTCOMES.index("useful"),
    state=STATES.index("SUCCESS"),
    spill_length=0,
    spill_at=0,
)


def record(**changed: Any) -> bytes:
    """The payload of a successful first attempt, but for what is `changed`."""
    return layout.pack_record(*PLAIN._replace(**changed))


def finish(
    segment: SegmentWriter,
    number: int,
    *,
    task: str = "shop.pay",
    outcome: Outcome = "useful",
    cpu_at_exit: float = 1.0,
    **fields: Any,
) -> bool:
    """Write attempt `number` as the hook does: into the ring, or into a cell when that is full (False)."""
    index, ended = segment.string(task), OUTCOMES.index(outcome)
    payload = record(task=index, attempt_no=number, queue=segment.string("celery"), outcome=ended, **fields)
    if segment.put(payload, number, cpu_at_exit):
        return True
    values = Record.unpack(payload)
    cpu = (getattr(values, activity) for activity in Cpu._fields)
    segment.overflow((index, ended, values.state), number, cpu_at_exit, (1.0, 0.0, *cpu))
    return False


def begin(segment: SegmentWriter, number: int, *, task: str = "shop.pay", cpu: float = 1.0, **fields: Any) -> None:
    payload = record(task=segment.string(task), attempt_no=number, business=0.0, outcome=0, state=0, **fields)
    segment.begin(payload, number, cpu, 0.0)


def child(path: Path, role: int = layout.CHILD) -> SegmentWriter:
    return SegmentWriter(path, role, "worker")


def die(segment: SegmentWriter) -> None:
    """The file as a dead process leaves it: unlocked, and its pid now belongs to a process that started later."""
    segment.close()
    identity = list(layout.IDENTITY.unpack(segment.path.read_bytes()[: layout.IDENTITY.size]))
    identity[3] -= 1
    overwrite(segment.path, 0, layout.IDENTITY.pack(*identity))


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def killed_process(path: Path, script: str) -> int:
    """Run `script` in a process that has the writer `segment` and is then killed; its pid."""
    source = f"""
import os, signal, sys
from pathlib import Path
from taskwatt.segments import SegmentWriter, layout
from tests.support.segments import begin, child, finish, record
segment = child(Path(sys.argv[1]))
{textwrap.dedent(script)}
os.kill(os.getpid(), signal.SIGKILL)
"""
    with subprocess.Popen(
        [sys.executable, "-c", source, str(path)], cwd=Path(__file__).parents[2], stderr=subprocess.PIPE
    ) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL, errors.decode()
    return process.pid
