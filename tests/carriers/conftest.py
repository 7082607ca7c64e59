"""The accelerator itself; what it counts is tested with both carriers where steps and loops are."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.carriers import part_in_c


@pytest.fixture
def c() -> Any:
    """The part in C."""
    return part_in_c()
