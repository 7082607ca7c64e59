"""What this machine remembers: the newest verdicts of every agent, live or recently ended.

Reads files only; needs no cooperation from the processes it tells about.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from taskwatt.segments import Damaged, SegmentReader
from taskwatt.segments.directory import AgentDirectory, RuntimeDirectory, candidates, is_private, read_regular
from taskwatt.settings import Settings

EVENT: Final = "taskwatt.triage"
_LARGEST: Final = 8 << 20
"""Bytes read from the end of a file: twice the length at which the history rolls over."""
RECENT_S: Final = 3600.0
"""An agent that ended longer ago than this is left out."""


class Documents(NamedTuple):
    """The newest triage document of every agent."""

    live: list[dict[str, Any]]
    """Of agents whose processes run."""
    ended: list[dict[str, Any]]


def documents(directory: Path | None) -> Documents:
    """What each agent said last; unreadable files are left out.

    `directory`: read this one, whoever made it; None: TASKWATT_DIR, or if that is not set the places where an agent
    then writes, as far as they are ours. What was asked for is the only place: what another one holds is of others.
    """
    if directory is None:
        directory = Settings.from_environ(os.environ).directory
    live: list[dict[str, Any]] = []
    ended: dict[str, dict[str, Any]] = {}
    for path in filter(is_private, candidates(None)) if directory is None else [directory]:
        runtime = RuntimeDirectory(path)
        for agent in runtime.agents():
            alive = _alive(agent)
            if not alive and not _recent(agent.latest):
                continue
            document = _read_json(agent.latest)
            if document is None:
                continue
            if alive:
                live.append(document)
            else:
                ended[_instance(document)] = document
        for name, document in _last_verdicts(runtime.history):
            ended.setdefault(name, document)
    known = {_instance(document) for document in live}
    return Documents(live, [document for name, document in ended.items() if name not in known])


def _recent(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime <= RECENT_S
    except OSError:
        return False


def _instance(document: dict[str, Any]) -> str:
    agent: Any = document.get("agent")
    identity = cast(dict[str, Any], agent).get("identity") if isinstance(agent, dict) else None
    return identity if isinstance(identity, str) else str(id(document))


def _alive(agent: AgentDirectory) -> bool:
    try:
        reader = SegmentReader(agent.owner_segment)
    except (Damaged, OSError):
        return False
    try:
        return reader.alive()
    finally:
        reader.close()


def _last_verdicts(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(agent identity, its last document) of every history file that is recent enough."""
    for path in sorted(folder.glob("*.jsonl")) if folder.is_dir() else []:
        if not _recent(path):
            continue
        try:
            lines = read_regular(path, _LARGEST).splitlines()
        except OSError:
            continue
        for line in reversed(lines):
            document = _verdicts(line)
            if document is not None:
                yield _instance(document), document
                break


def _verdicts(line: bytes) -> dict[str, Any] | None:
    if EVENT.encode() not in line:
        return None
    try:
        record = json.loads(line)["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]
        found = json.loads(record["body"]["stringValue"])
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    return cast(dict[str, Any], found) if isinstance(found, dict) else None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(read_regular(path, _LARGEST))
    except (OSError, ValueError, RecursionError):
        return None
    return cast(dict[str, Any], found) if isinstance(found, dict) else None
