"""Real loops are measured, by either carrier; nothing stays patched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.carriers import carrier
from tests.support.loops import measured

__all__ = ["carrier"]


@pytest.fixture(autouse=True)
def measuring(tmp_path: Path, carrier: str) -> Iterator[None]:
    with measured(tmp_path):
        yield
