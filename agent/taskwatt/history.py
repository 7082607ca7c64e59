"""What this machine remembers: the newest verdicts of every agent, live or recently ended.

Reads files only; needs no cooperation from the processes it tells about.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

from taskwatt.segments import Damaged, SegmentReader
from taskwatt.segments.directory import AgentDirectory, RuntimeDirectory, candidates, is_private, read_regular
from taskwatt.settings import Settings

EVENT: Final = "taskwatt.triage"
_LARGEST: Final = 8 << 20
"""Bytes read from the end of a file: twice the length at which the history rolls over."""
RECENT_S: Final = 3600.0
"""An agent that ended longer ago than this is left out."""


def documents(directory: Path | None) -> list[dict[str, Any]]:
    """The newest triage document of every agent; those of live agents first.

    `directory`: read this one only, whoever made it; None: TASKWATT_DIR and the places an agent falls back on, where
    they are ours. Unreadable files are left out.
    """
    configured = Settings.from_environ(os.environ).directory
    usual = [path for path in candidates(configured) if path == configured or is_private(path)]
    live: list[dict[str, Any]] = []
    ended: dict[str, dict[str, Any]] = {}
    for path in usual if directory is None else [directory]:
        runtime = RuntimeDirectory(path)
        for agent in runtime.agents():
            document = _read_json(agent.latest)
            if document is not None:
                (live if _alive(agent) else _Ended(ended)).append(document)
        for name, document in _last_verdicts(runtime.history):
            ended.setdefault(name, document)
    known = {_instance(document) for document in live}
    recent = [document for document in ended.values() if _instance(document) not in known]
    return live + recent


class _Ended:
    def __init__(self, into: dict[str, dict[str, Any]]) -> None:
        self._into = into

    def append(self, document: dict[str, Any]) -> None:
        self._into[_instance(document)] = document


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
        try:
            if time.time() - path.stat().st_mtime > RECENT_S:
                continue
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
