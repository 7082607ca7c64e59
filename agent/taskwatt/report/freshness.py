"""Which documents tell about now. One that is minutes old must not add its cores to those that burn at this moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from taskwatt.report.shape import well_formed
from taskwatt.report.triage import Document

STALE_S = 15.0
"""A living agent writes its document every second, a quiet one every 6 s; 15 s without one outlasts a stalled tick, not
a death."""


def current(documents: Sequence[Document], now_ns: int) -> list[Document]:
    """Those of living agents; if there are none, those of the agents that ended last, with their processes ended.

    Documents of another schema, and those that do not hold what theirs promises, are left out.
    """
    known = [document for document in documents if well_formed(document)]
    fresh = _within(known, now_ns)
    if fresh or not known:
        return fresh
    return [_ended(document) for document in _within(known, max(_updated_ns(document) for document in known))]


def _within(documents: Sequence[Document], moment_ns: int) -> list[Document]:
    return [document for document in documents if moment_ns - _updated_ns(document) <= STALE_S * 1e9]


def _updated_ns(document: Document) -> int:
    agent: Any = document.get("agent")
    updated = cast(dict[str, Any], agent).get("updated_ns") if isinstance(agent, dict) else None
    return updated if isinstance(updated, int) else 0


def _ended(document: Document) -> Document:
    processes = [{**process, "alive": False, "cpu_cores": None} for process in document["processes"]]
    return {**document, "processes": processes}
