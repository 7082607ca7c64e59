"""Both carriers, for tests that hold for either."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from taskwatt_celery.attempt import Recorder


def part_in_c() -> Any:
    """Of the accelerator. Without it the test is skipped, but not in CI, where there is a compiler."""
    from taskwatt_fast import Refused
    from taskwatt_fast.compiled import compiled

    try:
        return compiled()
    except Refused as refused:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no accelerator: {refused}")


def recorders_in_c() -> type[Recorder]:
    """Those of the accelerator. Without it the test is skipped, but not in CI; one that was built is not refused."""
    from taskwatt_fast import Refused
    from taskwatt_fast.attempts import compiled

    try:
        compiled()
    except Refused as refused:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no accelerator: {refused}")
    from taskwatt_celery.accelerated import accelerated

    return accelerated()


@pytest.fixture(params=["C", "Python"])
def carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which of them measures the loops of this test."""
    if request.param == "C":
        part_in_c()
        monkeypatch.delenv("TASKWATT_ACCELERATOR", raising=False)
    else:
        monkeypatch.setenv("TASKWATT_ACCELERATOR", "0")
    return str(request.param)


@pytest.fixture
def recorders(carrier: str) -> Iterator[type[Recorder]]:
    """The class whose instances measure this test's attempts."""
    from taskwatt_celery import carriers as attempts

    attempts.forget()
    yield attempts.recorders()
    assert attempts.sentence().startswith(attempts.IN_C if carrier == "C" else attempts.IN_PYTHON)
    attempts.forget()
