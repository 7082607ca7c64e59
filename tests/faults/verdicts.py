"""What the agent said: its documents while it ran, and the incidents in its history."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

SPAN = "taskwatt.finding "


class Opened(NamedTuple):
    """One incident's first segment."""

    at_ns: int
    cause: str
    task: str


@dataclass(frozen=True)
class Document:
    """One triage document, and the span of time it is about."""

    from_ns: float
    to_ns: float
    body: dict[str, Any]

    def finding(self, cause: str, task: str) -> dict[str, Any] | None:
        for one in self.body["findings"]:
            if one["cause"] == cause and one["verdict"] == "found" and (one["task"] or "") == task:
                return dict(one)
        return None

    def verdict(self, cause: str) -> str:
        """The cause's line; `found` wins."""
        said = [one["verdict"] for one in self.body["findings"] if one["cause"] == cause]
        return "found" if "found" in said else said[0] if said else "missing"


def latest(directory: Path) -> Document | None:
    """The newest document of the one agent below `directory`; None before there is one."""
    with suppress(OSError, ValueError, StopIteration):
        body = json.loads(next(iter(directory.glob("agents/*/latest.json"))).read_bytes())
        to_ns = int(body["agent"]["updated_ns"])
        return Document(to_ns - body["window_s"] * 1e9, to_ns, body)
    return None


def opened(directory: Path) -> list[Opened]:
    """Every incident that opened, oldest first, from the history's incident spans."""
    found: list[Opened] = []
    for path in directory.glob("history/*.jsonl"):
        for line in path.read_text().splitlines():
            if SPAN in line:
                found.extend(_incidents(json.loads(line)))
    return sorted(found)


def _incidents(exported: dict[str, Any]) -> list[Opened]:
    found: list[Opened] = []
    spans = [
        span
        for resource in exported.get("resourceSpans", [])
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
        if span["name"].startswith(SPAN)
    ]
    for span in spans:
        said = {pair["key"]: pair["value"].get("stringValue", "") for pair in span["attributes"]}
        if said["taskwatt.incident.state"] == "opened":
            task = said.get("taskwatt.task.name", "")
            found.append(Opened(int(span["endTimeUnixNano"]), said["taskwatt.finding.cause"], task))
    return found
