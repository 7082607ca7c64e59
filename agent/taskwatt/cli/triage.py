"""`taskwatt triage`: what is the matter, now, on this machine.

Exit codes: 0 healthy (or only useful compute), 1 something was found, 2 nothing is watched here. Where nothing runs any
more, they are about what ended last within an hour, and the screen says so.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from taskwatt.report import terminal, text
from taskwatt.report.freshness import current
from taskwatt.report.triage import Document, merge
from taskwatt.settings import Settings

HEALTHY, FOUND, NOT_SEEN = 0, 1, 2

NOTHING_SEEN = (
    "taskwatt: no process was seen here, which says nothing about its health. "
    "Start it with TASKWATT_ENABLED=1 in its environment; if it runs with TASKWATT_DIR set, "
    "set the same here or pass --dir."
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Say which process and task burn CPU, and whether it is useful work or repeated waste."
    parser.epilog = "Exit status: 0 healthy or only useful compute, 1 something was found, 2 nothing is watched here."
    parser.add_argument("--json", action="store_true", help="print one JSON object (schema taskwatt.triage/1)")
    add_directory(parser)


def add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir", type=Path, help="runtime directory to read (default: TASKWATT_DIR, or else the usual places)"
    )


def seen_here(directory: Path | None) -> list[Document]:
    """What the agents of this machine said last."""
    from taskwatt import history

    return current(*history.documents(directory), time.time_ns())


def nothing_seen(directory: Path | None) -> int:
    """Says so, and which one place was looked at, if it was one; gives the exit code."""
    asked = directory or Settings.from_environ(os.environ).directory
    print(NOTHING_SEEN + (f" Only {asked} was read." if asked else ""), file=sys.stderr)
    return NOT_SEEN


def main(args: argparse.Namespace) -> int:
    documents = seen_here(args.dir)
    if not documents:
        return nothing_seen(args.dir)
    document = merge(documents)
    if args.json:
        print(json.dumps(document, indent=2, allow_nan=False))
    else:
        terminal.tolerate(sys.stdout)
        color = terminal.wants_color(sys.stdout, os.environ)
        print(text.render(document, color=color, width=terminal.width()), end="")
    return HEALTHY if text.healthy(document) else FOUND
