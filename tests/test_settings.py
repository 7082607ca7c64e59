"""Each variable is read once, and a bad one never stops anything."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from taskwatt import settings
from taskwatt.settings import Settings


@pytest.fixture(autouse=True)
def nothing_named_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_named", set())


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_environ({}) == Settings()


def test_blank_values_count_as_unset(caplog: pytest.LogCaptureFixture) -> None:
    assert Settings.from_environ({"TASKWATT_DIR": " ", "TASKWATT_STALL_THRESHOLD": ""}) == Settings()
    assert caplog.messages == []


def test_every_variable_is_read() -> None:
    assert Settings.from_environ(
        {
            "TASKWATT_ENABLED": "Yes",
            "TASKWATT_DIR": "/var/lib/watt",
            "TASKWATT_ACCELERATOR": "0",
            "TASKWATT_AIOMONITOR": "1",
            "TASKWATT_LOG_LEVEL": "debug",
            "TASKWATT_STALL_THRESHOLD": "0.25",
            "TASKWATT_PROCESS_CLASS": "scheduler",
            "TASKWATT_EXCLUDED_TASKS": "health.*, ,metrics.push",
        }
    ) == Settings(
        enabled=True,
        directory=Path("/var/lib/watt"),
        accelerator="0",
        aiomonitor=True,
        log_level="DEBUG",
        stall_threshold_s=0.25,
        process_class="scheduler",
        excluded_tasks=("health.*", "metrics.push"),
    )


def test_a_relative_directory_is_made_absolute() -> None:
    assert Settings.from_environ({"TASKWATT_DIR": "here"}).directory == Path.cwd() / "here"


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("TASKWATT_ENABLED", "perhaps", "one of 1, true, yes, on, 0, false, no, off; the default (False) is used"),
        ("TASKWATT_DIR", "~nobody-of-that-name/x", "a path that can be made absolute; the default (unset) is used"),
        ("TASKWATT_ACCELERATOR", "fast", "one of auto, 0; the default (auto) is used"),
        ("TASKWATT_AIOMONITOR", "2", "one of 1, true, yes, on, 0, false, no, off; the default (False) is used"),
        ("TASKWATT_LOG_LEVEL", "loud", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL; the default (unset) is used"),
        ("TASKWATT_STALL_THRESHOLD", "nan", "a number of seconds above 0; the default (0.1) is used"),
        ("TASKWATT_STALL_THRESHOLD", "-1", "a number of seconds above 0; the default (0.1) is used"),
        ("TASKWATT_PROCESS_CLASS", "cook", "one of web, worker, scheduler, job; the default (unset) is used"),
    ],
)
def test_a_bad_value_is_named_in_one_line_and_its_default_used(
    name: str, value: str, wanted: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert Settings.from_environ({name: value}) == Settings()
    assert caplog.record_tuples == [("taskwatt", logging.WARNING, f"{name}={value!r} is not {wanted}")]
