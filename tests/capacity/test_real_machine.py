"""The same identity on this machine's kernel, with real processes that burn."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from taskwatt import clocks
from taskwatt.windows.capacity import Capacity

pytestmark = pytest.mark.skipif(not clocks.LINUX, reason="run-queue delay and affinity are Linux's")

SPIN = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nprint('on', flush=True)\nwhile True: pass"


@contextmanager
def burners(count: int, cpu: int) -> Iterator[list[int]]:
    processes = [
        subprocess.Popen([sys.executable, "-c", SPIN, str(cpu)], stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "on\n"
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_three_burners_on_one_cpu_explain_their_own_waiting() -> None:
    capacity = Capacity()
    with burners(3, min(os.sched_getaffinity(0))) as pids:
        capacity.sample(time.monotonic(), pids)
        time.sleep(2.0)
        capacity.sample(time.monotonic(), pids)
    window = capacity.window(10)
    if window.own_run_delay is None:
        pytest.skip("this kernel keeps no run-queue delay")
    assert window.effective_cpus <= 1.0
    assert window.runnable_processes == 3
    assert window.demand == pytest.approx(3.0, rel=0.2)
    assert window.own_excess is not None
    assert 1.5 <= window.own_excess <= 2.6
