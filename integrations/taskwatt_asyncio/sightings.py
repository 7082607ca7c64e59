"""Where one step was seen while it blocked: several looks, and the line that holds it longest wins."""

from __future__ import annotations

import asyncio
import os
from types import FrameType
from typing import Final

from taskwatt.code_site import Line, choose
from taskwatt.observations import CodeSite

MAX_LINES: Final = 16
"""Lines of one step that are told apart; later ones are not noted."""
MAX_FRAMES: Final = 60
_MAX_DEPTH: Final = 1000
_MAX_WEIGHT_S: Final = 0.05
"""A look says nothing about the time long before it."""
_RUNNERS: Final = frozenset({"_run", "_run_once", "call", "run", "run_forever", "run_until_complete"})
_FOLDERS: Final = tuple(os.path.dirname(file) + os.sep for file in (asyncio.__file__, __file__))


class Sightings:
    """Of one step. Written by the watchdog, read by the loop's thread when the step has ended."""

    __slots__ = ("_lines", "_newest", "_stacks")

    def __init__(self) -> None:
        self._lines: dict[Line, tuple[float, int]] = {}
        """Seconds that it stands for, looks."""
        self._stacks: dict[Line, list[Line]] = {}
        self._newest: tuple[Line, float, float] | None = None
        """Line, the time since the look before, weight of the newest look."""

    def add(self, stack: list[Line], seconds: float, late_s: float) -> None:
        """A look: the stack of the step, innermost first; the time since the look before; how late this one was.

        One that is late waited for the interpreter: the line kept it all that time.
        """
        self._newest = None
        line = choose(stack)
        if line is None or (line not in self._lines and len(self._lines) >= MAX_LINES):
            return
        weight, looks = self._lines.get(line, (0.0, 0))
        added = min(seconds, _MAX_WEIGHT_S + late_s)
        self._lines[line] = weight + added, looks + 1
        self._newest = line, seconds, added
        self._stacks.setdefault(line, stack[:MAX_FRAMES])

    def waited(self, late_s: float) -> None:
        """The newest look was only so late for the interpreter; for the rest of it there was no CPU."""
        newest, self._newest = self._newest, None
        if newest is not None:
            line, seconds, added = newest
            weight, looks = self._lines[line]
            self._lines[line] = weight - added + min(seconds, _MAX_WEIGHT_S + late_s), looks

    def found(self, task: str) -> tuple[CodeSite | None, str]:
        """The line, and the stack with it, innermost last; (None, "") when there was no look."""
        lines = dict(self._lines)
        if not lines:
            return None, ""
        line, (weight, looks) = max(lines.items(), key=lambda one: one[1])
        total = sum(seconds for seconds, _ in lines.values())
        site = CodeSite(task, line.function, line.file, line.line, weight / total if total else 1.0, looks)
        return site, "\n".join(_shown(self._stacks.get(line, [line])))


def stack_of(frame: FrameType | None) -> list[Line]:
    """The frames of the running step, innermost first: those above the loop's own."""
    found: list[Line] = []
    for _ in range(_MAX_DEPTH):
        if frame is None:
            break
        code = frame.f_code
        if _runs_loop(code.co_name, code.co_filename):
            break
        found.append(Line(code.co_qualname, code.co_filename, frame.f_lineno or code.co_firstlineno))
        frame = frame.f_back
    return found


def _runs_loop(function: str, file: str) -> bool:
    """Is it a frame of a loop that runs a step (asyncio's or ours)? What lies outside of it is how the loop started."""
    return function in _RUNNERS and file.startswith(_FOLDERS)


def _shown(stack: list[Line]) -> list[str]:
    return [f'File "{line.file}", line {line.line}, in {line.function}' for line in reversed(stack)]
