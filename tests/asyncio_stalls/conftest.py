"""A process whose loops are measured and whose stalls are read where they are written."""

from __future__ import annotations

import faulthandler
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import taskwatt_asyncio
from taskwatt.observations import Stall
from taskwatt.runtime import runtime
from taskwatt.segments import SegmentReader
from taskwatt.segments.records import decode
from taskwatt_asyncio.stalls import Bound
from tests.support.carriers import carrier

__all__ = ["carrier"]

Told = Callable[[], list[Stall]]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """What has been told since the last call."""
    monkeypatch.setenv("TASKWATT_DIR", str(tmp_path / "taskwatt"))
    before = faulthandler.dump_traceback_later, faulthandler.cancel_dump_traceback_later
    segment = runtime.become_owner("job")
    assert segment is not None
    reader = SegmentReader(segment.path, segment.descriptor)
    taskwatt_asyncio.install()

    def read() -> list[Stall]:
        found = [decode(one) for one in reader.drain()]
        reader.commit()
        return [one for one in found if isinstance(one, Stall)]

    yield read
    taskwatt_asyncio.uninstall()
    runtime.stop()
    assert [one.name for one in threading.enumerate() if one.name.startswith("taskwatt")] == []
    assert (faulthandler.dump_traceback_later, faulthandler.cancel_dump_traceback_later) == before


@pytest.fixture
def unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stall is told of."""
    monkeypatch.setattr(Bound, "refill", lambda _, __: True)
