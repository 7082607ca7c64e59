"""`taskwatt run -- CMD`: the command, with the agent switched on; what TASKWATT_ENABLED=1 does, as a word.

The command replaces this process, so that its pid, signals and exit code are its own.
"""

from __future__ import annotations

import argparse
import os
import sys

from taskwatt._autostart import ENABLED

NOT_EXECUTABLE, NOT_FOUND = 126, 127
"""The shell's own codes."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "taskwatt run [--] COMMAND [ARGUMENT ...]"
    parser.description = "Run a command with the agent switched on, in it and in the Python processes it starts."
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run, with its arguments")


def main(args: argparse.Namespace) -> int:
    command: list[str] = args.command
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        print("taskwatt run: name the command to run, as in: taskwatt run -- celery -A app worker", file=sys.stderr)
        return 2
    sys.stdout.flush()
    try:
        os.execvpe(command[0], command, {**os.environ, ENABLED: "1"})
    except FileNotFoundError:
        print(f"taskwatt run: {command[0]}: command not found", file=sys.stderr)
        return NOT_FOUND
    except OSError as error:
        print(f"taskwatt run: {command[0]}: {error.strerror}", file=sys.stderr)
        return NOT_EXECUTABLE
