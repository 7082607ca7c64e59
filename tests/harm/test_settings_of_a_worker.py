"""Bad settings, and an interpreter that turns warnings into errors: one line each, and the worker runs."""

from __future__ import annotations

import pytest

from tests.harm.conftest import StartWorker

BAD = {
    "TASKWATT_ACCELERATOR": ("fast", "one of auto, 0", "auto"),
    "TASKWATT_AIOMONITOR": ("2", "one of 1, true, yes, on, 0, false, no, off", "False"),
    "TASKWATT_LOG_LEVEL": ("loud", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL", "unset"),
    "TASKWATT_STALL_THRESHOLD": ("-1", "a number of seconds above 0", "0.1"),
    "TASKWATT_PROCESS_CLASS": ("cook", "one of web, worker, scheduler, job", "unset"),
}

THEIRS = ("ignore:You're running the worker with superuser", "ignore:Call to deprecated")
"""Warnings of Celery to root, and of redis-py to Celery."""


def test_every_bad_setting_is_named_once_with_its_default(worker: StartWorker) -> None:
    """In the worker's own log, so not before its logging is set up; also when children are recycled."""
    options = ("--concurrency", "1", "--max-tasks-per-child", "1")
    watched = worker(options=options, **{name: value for name, (value, _, _) in BAD.items()})
    for number in range(2):
        assert watched.app.AsyncResult(watched.send("add", number, 1)).get(timeout=20) == number + 1
    assert watched.end() == 0
    said = [line for line in watched.log.splitlines() if "TASKWATT_" in line]
    assert sorted(line.partition("] ")[2] for line in said) == sorted(
        f"{name}={value!r} is not {wanted}; the default ({default}) is used"
        for name, (value, wanted, default) in BAD.items()
    )
    assert all("WARNING/MainProcess" in line for line in said)


@pytest.mark.parametrize("enabled", ["", "1"], ids=["without the agent", "with the agent"])
def test_a_worker_that_makes_warnings_errors_runs_as_before(worker: StartWorker, enabled: str) -> None:
    """Celery itself must stand it here (`without the agent`), or this would say nothing about us."""
    watched = worker(
        TASKWATT_ENABLED=enabled,
        PYTHONWARNINGS=f"error,{','.join(THEIRS)}",
        options=("--concurrency", "1", "--max-tasks-per-child", "2"),
    )
    for number in range(3):
        assert watched.app.AsyncResult(watched.send("add", number, 1)).get(timeout=20) == number + 1
    assert watched.end() == 0
    assert watched.warnings == []
    assert "Traceback" not in watched.log
