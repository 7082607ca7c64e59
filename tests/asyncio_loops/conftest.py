"""Real loops are measured; nothing stays patched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.loops import measured


@pytest.fixture(autouse=True)
def measuring(tmp_path: Path) -> Iterator[None]:
    with measured(tmp_path):
        yield
