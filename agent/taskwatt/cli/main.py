"""The entry of the command `taskwatt`: picks the subcommand and imports only that one.

Exit codes: 0 well, 1 something was found or is not well, 2 usage, or nothing is watched here.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import taskwatt

USAGE = 2
INTERRUPTED = 130

COMMANDS = {
    "demo": "see a diagnosis in a minute: a worker, a broken dependency, a retry storm",
    "run": "run a command with the agent switched on",
    "triage": "say what burns CPU on this machine, and whether it is wasted",
    "top": "watch it live",
    "doctor": "check the agent itself: settings, start-up file, directory, endpoint",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in COMMANDS:
        return _without_command(words)
    command = import_module(f"taskwatt.cli.{words[0]}")
    parser = argparse.ArgumentParser(prog=f"taskwatt {words[0]}")
    command.configure(parser)
    try:
        code: int = command.main(parser.parse_args(words[1:]))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has left. Python would complain once more when it closes the stream at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _without_command(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="taskwatt", description="Which process, task and line burn CPU, and is it useful work or repeated waste?"
    )
    parser.add_argument("--version", action="version", version=f"taskwatt {taskwatt.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, purpose in COMMANDS.items():
        commands.add_parser(name, help=purpose)
    parser.parse_args(words)
    parser.print_help(sys.stderr)
    return USAGE
