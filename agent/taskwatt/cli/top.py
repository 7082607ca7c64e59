"""`taskwatt top`: the same documents as triage, redrawn every second.

It draws on the terminal's alternate screen and leaves the user's own as it was, also after Ctrl-C or SIGTERM. Into a
pipe it prints one frame.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from taskwatt.cli.triage import add_directory, nothing_seen, seen_here
from taskwatt.report import live, terminal

EVERY_S = 1.0

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The alternate screen, without a cursor, and without wrapping: a narrow window cuts lines instead of spoiling them."""
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Watch the processes, the diagnosis and the CPU ledger of this machine, redrawn every second."
    parser.add_argument("--once", action="store_true", help="print one frame and exit (the default into a pipe)")
    add_directory(parser)


def main(args: argparse.Namespace) -> int:
    terminal.tolerate(sys.stdout)
    if args.once or not sys.stdout.isatty():
        return _once(args.dir)
    with _screen(sys.stdout):
        while True:
            columns, rows = shutil.get_terminal_size((100, 24))
            sys.stdout.write(_redrawn(_frame(args.dir, min(columns, terminal.WIDEST), rows - 1)))
            sys.stdout.flush()
            time.sleep(EVERY_S)
    return 0


def _once(directory: Path | None) -> int:
    documents = seen_here(directory)
    if not documents:
        return nothing_seen(directory)
    color = terminal.wants_color(sys.stdout, os.environ)
    width = terminal.width()
    print("\n".join(live.frame(documents, color=color, width=width, height=1_000)))
    return 0


def _frame(directory: Path | None, width: int, height: int) -> list[str]:
    color = terminal.wants_color(sys.stdout, os.environ)
    return live.frame(seen_here(directory), color=color, width=width, height=height)


def _redrawn(lines: list[str]) -> str:
    """Overwrites the frame before it line by line, so that nothing flickers."""
    return HOME + "".join(f"{line}{CLEAR_LINE}\r\n" for line in lines) + CLEAR_BELOW


@contextmanager
def _screen(stream: TextIO) -> Generator[None, None, None]:
    """The alternate screen, for as long as the block runs. Ctrl-C is how one leaves, so it is no error."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    stream.write(ENTER)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
        stream.write(LEAVE)
        stream.flush()
