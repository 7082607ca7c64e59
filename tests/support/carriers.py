"""Both carriers, for tests that hold for either."""

from __future__ import annotations

import os
from typing import Any

import pytest


def part_in_c() -> Any:
    """Of the accelerator. Without it the test is skipped, but not in CI, where there is a compiler."""
    from taskwatt_fast import Refused
    from taskwatt_fast.accelerator import compiled

    try:
        return compiled()
    except Refused as refused:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no accelerator: {refused}")


@pytest.fixture(params=["C", "Python"])
def carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which of them measures the loops of this test."""
    if request.param == "C":
        part_in_c()
        monkeypatch.delenv("TASKWATT_ACCELERATOR", raising=False)
    else:
        monkeypatch.setenv("TASKWATT_ACCELERATOR", "0")
    return str(request.param)
