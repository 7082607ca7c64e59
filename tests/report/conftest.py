"""One storm, written down by hand: the window, its findings, its incident and its processes."""

from __future__ import annotations

from typing import Any

import pytest

from taskwatt.incidents import Incident, Incidents
from taskwatt.observations import DELAY_BUCKETS, READY_BUCKETS, CodeSite
from taskwatt.report.triage import ProcessDescription, document
from taskwatt.rules import Finding, evaluate
from taskwatt.windows import HostWindow, LoopWindow, TaskWindow, Window
from tests.support.stalls import STALL

SECOND = 1_000_000_000
STARTED = 1_764_000_000 * SECOND


def storm_window() -> Window:
    storm = TaskWindow(
        task="shop.charge",
        process_class="worker",
        attempts={"retried": 1_130, "failed": 80},
        firsts=80,
        cpu={"retried": 8.9, "failed": 0.6},
        repeat_attempts=1_130,
        repeat_wasted_cpu=9.1,
        retry_delays=(0.0,) * 256,
        code=CodeSite("shop.charge", "connect", "shop/gateway.py", 41, weight=0.87, samples=42),
    )
    mail = TaskWindow("shop.mail", "worker", attempts={"useful": 40}, firsts=40, cpu={"useful": 0.3})
    return Window(
        seconds=10.0,
        process_class="worker",
        tasks=(storm, mail),
        host=HostWindow(effective_cpus=2, own_cpu=1.0, own_run_delay=0.1, runnable_processes=3),
        cpu_total=10.0,
        cpu_none=0.1,
        cpu_unattributed=0.1,
        slots=2,
        ledger={
            ("shop.charge", "retried", "business"): 7.4,
            ("shop.charge", "retried", "framework"): 1.5,
            ("shop.charge", "failed", "business"): 0.6,
            ("shop.mail", "useful", "business"): 0.2,
            ("shop.mail", "useful", "serialization"): 0.1,
            ("", "none", "framework"): 0.1,
        },
    )


def idle_window() -> Window:
    host = HostWindow(effective_cpus=2, own_cpu=0.01, own_run_delay=0.0)
    return Window(10.0, "worker", (), host, cpu_total=0.1, cpu_none=0.1, cpu_unattributed=0.0)


def described(window: Window, *, pid: int = 4_100, incidents: tuple[Incident, ...] = ()) -> dict[str, Any]:
    windows = {10.0: window}
    main = ProcessDescription(pid, "worker", "main", 0.2, "records", True, STARTED)
    child = ProcessDescription(pid + 1, "worker", "child", 0.8, "records", True, STARTED + SECOND)
    return document(windows=windows, findings=evaluate(windows), incidents=incidents, processes=(main, child))


@pytest.fixture
def incident() -> Incident:
    book = Incidents(lambda: STARTED)
    findings = evaluate({10.0: storm_window()})
    (transition,) = [told for _ in range(3) for told in book.observe(findings, 2)]
    return transition.incident


@pytest.fixture
def storm(incident: Incident) -> dict[str, Any]:
    return described(storm_window(), incidents=(incident,))


@pytest.fixture
def idle() -> dict[str, Any]:
    return described(idle_window(), pid=5_100)


def web_window() -> Window:
    delay, ready = [0.0] * (len(DELAY_BUCKETS) + 1), [0.0] * (len(READY_BUCKETS) + 1)
    delay[0], delay[9] = 5.0, 5.0
    ready[1] = 9.0
    worst = STALL._replace(
        task="shop.serve", duration_s=0.75, cause="blocking", code=CodeSite("shop.serve", "fetch", "shop.py", 7, 1.0, 1)
    )
    loops = (
        LoopWindow("Thread-1"),
        LoopWindow(
            "MainThread",
            "uvloop",
            iterations=100,
            busy_s=9.0,
            idle_s=1.0,
            delay=tuple(delay),
            ready=tuple(ready),
            ready_max=1,
            slow_steps=31,
            slow_s=11.5,
            stalls={"gil": (1, 0.25), "blocking": (7, 2.5)},
            worst=worst,
            partial="protocol callbacks are not seen",
        ),
    )
    host = HostWindow(effective_cpus=2, own_cpu=0.5, own_run_delay=0.0)
    return Window(10.0, "web", (), host, cpu_total=5.0, cpu_none=0.1, cpu_unattributed=0.0, loops=loops)


@pytest.fixture
def web() -> dict[str, Any]:
    """Written without rules, which change."""
    server = ProcessDescription(6_100, "web", "single", 0.5, "own", True, STARTED)
    nothing = Finding("retry_storm", "clear", "web", summary="No attempt ended.")
    return document(
        windows={10.0: web_window()},
        findings=(nothing,),
        incidents=(),
        processes=(server,),
        carriers=["pure Python: told so by TASKWATT_ACCELERATOR"],
    )
