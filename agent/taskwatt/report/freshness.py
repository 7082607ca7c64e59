"""Which documents tell about now. One that is minutes old must not add its cores to those that burn at this moment."""

from __future__ import annotations

from collections.abc import Sequence

from taskwatt.report.triage import SCHEMA, Document

STALE_S = 15.0
"""A living agent writes its document every second; 15 s without one outlasts a stalled tick, not a death."""


def current(documents: Sequence[Document], now_ns: int) -> list[Document]:
    """Those of living agents; if there are none, those of the agents that ended last, with their processes ended.

    Documents of another schema, or without one, are left out.
    """
    known = [document for document in documents if document.get("schema") == SCHEMA]
    fresh = _within(known, now_ns)
    if fresh or not known:
        return fresh
    return [_ended(document) for document in _within(known, max(_updated_ns(document) for document in known))]


def _within(documents: Sequence[Document], moment_ns: int) -> list[Document]:
    return [document for document in documents if moment_ns - _updated_ns(document) <= STALE_S * 1e9]


def _updated_ns(document: Document) -> int:
    return int(document.get("agent", {}).get("updated_ns", 0))


def _ended(document: Document) -> Document:
    processes = [{**process, "alive": False, "cpu_cores": None} for process in document["processes"]]
    return {**document, "processes": processes}
