"""What the examples of this folder share: start a watched process, and show what taskwatt says of it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from taskwatt import history
from taskwatt.report import terminal, text
from taskwatt.report.triage import merge


@contextmanager
def watched(command: Sequence[str], folder: Path) -> Generator[Path]:
    """Run this Python on `command` in `folder` with the agent on, and stop it at the end. Gives its TASKWATT_DIR."""
    with tempfile.TemporaryDirectory(prefix="taskwatt-example-") as temporary:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "TASKWATT_"))}
        environ = {**kept, "TASKWATT_ENABLED": "1", "TASKWATT_DIR": temporary}
        process = subprocess.Popen([sys.executable, *command], cwd=folder, env=environ)
        try:
            yield Path(temporary)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def diagnose(directory: Path, cause: str) -> int:
    """Show the diagnosis; 0 when `cause` was found."""
    documents = history.documents(directory).live
    if not documents:
        print("No verdict: the process ended, or taskwatt is off in it.", file=sys.stderr)
        return 1
    document = merge(documents)
    print()
    print(text.render(document, color=terminal.wants_color(sys.stdout, os.environ), width=terminal.width()))
    return 0 if any(one["cause"] == cause and one["verdict"] == "found" for one in document["findings"]) else 1


def say(line: str) -> None:
    print(line, flush=True)
