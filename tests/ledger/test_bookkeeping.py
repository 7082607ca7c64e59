"""What no worker shows reliably: children nobody knows, attempts in the process that serves them, set-up."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from taskwatt.drainer import Death, Drainer
from taskwatt.journal import Journal
from taskwatt.meter import Meter, meter, own_cost
from taskwatt.segments import RuntimeDirectory, SegmentWriter, layout
from tests.support.tasks import burn_for


def test_a_reaped_child_without_a_segment_is_in_the_kernels_figure_once(tmp_path: Path) -> None:
    """A child that could not make its segment (a full disk) used CPU all the same: unattributed, not forgotten."""
    runtime, _ = RuntimeDirectory.open(tmp_path / "taskwatt")
    directory = runtime.agent(os.getpid())
    segment = SegmentWriter(directory.owner_segment, layout.OWNER, "worker")
    deaths = {999_999: Death(1.5, 0, time.time_ns())}
    drainer = Drainer(directory, Journal(directory.path), deaths, lambda _: None, segment)

    told = [drainer.collect().kernel, drainer.collect().kernel]

    drainer.close()
    segment.close()
    assert told == [{"worker": 1.5}, {}]
    assert deaths == {}


def test_what_an_attempt_serializes_in_the_process_that_serves_it_is_not_that_processs_own() -> None:
    counted = Meter()
    counted.serialization = 1.0
    counted.collected.append(0.5)
    seen = [counted.outside_attempts()]
    counted.enter_attempt()
    counted.serialization = 4.0
    counted.collected.append(0.75)
    seen.append(counted.outside_attempts())
    counted.leave_attempt()
    counted.serialization = 6.0
    seen.append(counted.outside_attempts())

    assert seen == [(1.0, 0.5), (1.0, 0.5), (3.0, 0.5)]


def test_what_the_agents_set_up_takes_is_counted_as_the_agents_even_when_it_fails() -> None:
    before = meter.agent

    @own_cost()
    def set_up() -> None:
        burn_for(0.01)
        raise FileNotFoundError("meant to fail")

    with pytest.raises(FileNotFoundError, match="meant to fail"):
        set_up()
    assert meter.agent - before >= 0.01
