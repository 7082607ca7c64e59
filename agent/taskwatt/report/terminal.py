"""What the terminal allows: colour, width, and text that cannot command it."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping
from typing import Final, TextIO

WIDEST: Final = 120
"""Lines longer than this are hard to read, however wide the window is."""

STYLES: Final[Mapping[str, str]] = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "cyan": "36",
    "alarm": "1;31",
}


class Paint:
    """Wraps text in ANSI styles, or leaves it alone."""

    def __init__(self, color: bool) -> None:
        self._color = color

    def __call__(self, style: str, text: str) -> str:
        return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if self._color and text else text


def wants_color(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """NO_COLOR beats FORCE_COLOR beats what the stream is, as in Python's own tracebacks."""
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and environ.get("TERM") != "dumb"


def width() -> int:
    """Columns to write in; COLUMNS is respected, and a pipe gets 100."""
    return max(60, min(WIDEST, shutil.get_terminal_size((100, 24)).columns))


def tolerate(stream: TextIO) -> None:
    """Let a terminal that lacks a character show `?` for it instead of failing."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")


def plain(text: str) -> str:
    """Task names come from messages: whatever in them could move a cursor or set a title is shown as `?`."""
    return "".join(character if character.isprintable() else "?" for character in text)


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """At least one line, each plain."""
    return textwrap.wrap(plain(text), width, subsequent_indent=indent, break_on_hyphens=False) or [""]


def shortened(text: str, columns: int) -> str:
    """Cut at the front: the end of a dotted name tells more than its beginning."""
    text = plain(text)
    return text if len(text) <= columns else "…" + text[len(text) - columns + 1 :]


def shortened_path(path: str, columns: int) -> str:
    """Without as many of its first folders as must go; the file's name stays, also where that is longer."""
    path = plain(path)
    folders, _, name = path.rpartition("/")
    kept = folders.split("/") if folders else []
    while kept and len(path) > columns:
        kept = kept[1:]
        path = "/".join(["…", *kept, name])
    return path
