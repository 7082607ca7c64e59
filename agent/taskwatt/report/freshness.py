"""Which documents tell about now. One that is minutes old must not add its cores to those that burn at this moment."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

from taskwatt.report.shape import well_formed
from taskwatt.report.triage import Document

STALE_S = 15.0
"""A living agent writes its document every second, a quiet one every 6 s; 15 s without one outlasts a stalled tick, not
a death."""


def current(live: Sequence[Document], ended: Sequence[Document], now_ns: int) -> list[Document]:
    """Those of living agents alone; if there are none, those of the agents that ended last, marked as ended.

    Agents that ended within 15 s of each other were one system. One that lives and writes nothing (it is stopped, or
    gets no CPU) is marked with the same time, and its processes stay alive. Documents of another schema, and those that
    do not hold what theirs promises, are left out.
    """
    running = [each for each in live if well_formed(each)]
    fresh = _within(running, now_ns, now_ns)
    if fresh:
        return fresh
    known = running + [each for each in ended if well_formed(each)]
    last = max((_updated_ns(each, now_ns) for each in known), default=0)
    return [_silent(each, now_ns, alive=each in running) for each in _within(known, last, now_ns)]


def _within(documents: Sequence[Document], moment_ns: int, now_ns: int) -> list[Document]:
    return [document for document in documents if moment_ns - _updated_ns(document, now_ns) <= STALE_S * 1e9]


def _updated_ns(document: Document, now_ns: int) -> int:
    """Not after now: the clock may have been set back."""
    agent: Any = document.get("agent")
    updated = cast(dict[str, Any], agent).get("updated_ns") if isinstance(agent, dict) else None
    return max(0, min(updated, now_ns)) if isinstance(updated, int) else 0


def _silent(document: Document, now_ns: int, *, alive: bool) -> Document:
    processes = [
        {**process, "alive": alive and process["alive"], "cpu_cores": None} for process in document["processes"]
    ]
    updated_ns = _updated_ns(document, now_ns)
    at = datetime.fromtimestamp(updated_ns // 1_000_000_000, UTC).isoformat().replace("+00:00", "Z")
    return {**document, "processes": processes, "ended_at": at, "ended_s_ago": round((now_ns - updated_ns) / 1e9, 3)}
