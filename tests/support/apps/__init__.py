"""Applications that tests start behind real servers; each tells at /rows what was billed to whom, and the truth."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

from taskwatt import accounts
from taskwatt.process_class import process_class
from tests.support.burner import burn

_truth: defaultdict[str, float] = defaultdict(float)
_lock = threading.Lock()


def work(name: str, milliseconds: float) -> None:
    """Burn for the row of this name."""
    used = burn(milliseconds / 1000)
    with _lock:
        _truth[name] += used


def told() -> dict[str, Any]:
    """Rows as [name, outcome, number, CPU seconds]; the truth by name."""
    rows = [[name, outcome, row.number, row.cpu_s] for (name, outcome), row in accounts.rows().items() if row.number]
    return {"rows": rows, "truth": dict(_truth), "class": process_class()}
