"""`taskwatt demo`: a small system with a real bug in it, started and diagnosed by one command.

The system is an integration's, and the agent imports none: it is found by the entry point `celery` in the group
`taskwatt.demos`, a function without arguments that returns the exit code.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import entry_points

MISSING = 2


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Start a broker, a Celery worker and traffic on this machine; a dependency is down and orders retry at once. "
        "Ends with the diagnosis, in less than a minute. Everything stays on 127.0.0.1."
    )
    parser.epilog = "Exit status: 0 the bug was found, 1 it was not, 2 something is missing."


def main(args: argparse.Namespace) -> int:  # noqa: ARG001  # every command has it
    for point in entry_points(group="taskwatt.demos", name="celery"):
        try:
            demo = point.load()
        except ImportError as error:
            print(f"taskwatt demo needs {error.name}: pip install 'taskwatt[demo]'", file=sys.stderr)
            return MISSING
        code: int = demo()
        return code
    print("taskwatt demo: no demo is installed", file=sys.stderr)
    return MISSING
