"""What `taskwatt.label` makes: a row of the ledger within the row, or the coroutine type, that runs it.

Not named label.py: a submodule would take the function's place on the package.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Final

from taskwatt import accounts, pieces
from taskwatt.accounts import Account
from taskwatt.observations import Outcome
from taskwatt.process_class import process_class
from taskwatt.runtime import runtime

MAX_TEXT: Final = 100
"""Characters of a label; the rest is cut."""

namers: list[Callable[[], str]] = []
"""Each gives the name of what an event loop runs on the calling thread, or nothing; the first that knows is asked."""


class Label:
    """Enter and exit in one task or thread; entered again, also while it is entered, it is a block of its own."""

    __slots__ = ("_entered", "_text")

    def __init__(self, text: str) -> None:
        self._text = f"[{text[:MAX_TEXT]}]"
        self._entered: list[tuple[Account, Account | None, pieces.Piece | None]] = []

    def __enter__(self) -> None:
        if runtime.attempts_pay():
            return
        around = row()
        piece = None
        if pieces.here() is None and not pieces.loop_runs():
            piece = pieces.begin(accounts.account.get())
            _measure()
        caller = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # documented, its underscore notwithstanding
        name = around.name if around is not None else _type_name(piece) or _of(caller)
        self._entered.append((accounts.open_account(name + self._text), around, piece))

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: object) -> None:
        if not self._entered:
            return
        account, around, piece = self._entered.pop()
        if around is not None and account.name != around.name + self._text:
            account.rename(around.name + self._text)  # the request learned its route within the block
        account.close(_outcome(error))
        if piece is not None:
            pieces.end(piece)


def row() -> Account | None:
    """The innermost open account of this context that is a row."""
    one = accounts.current()
    while one is not None and not one.name:
        one = one.around
    return one


def _outcome(error: BaseException | None) -> Outcome:
    """Of a block that an exception left: cancellation is no Exception, and a closed generator is no failure."""
    if error is None or isinstance(error, GeneratorExit):
        return "useful"
    return "failed" if isinstance(error, Exception) else "cancelled"


def _type_name(own_piece: pieces.Piece | None) -> str:
    for namer in namers:
        name = namer()
        if name:
            return name
    piece = pieces.here()
    return piece.own.name if piece is not None and piece is not own_piece and piece.own is not None else ""


def _of(frame: FrameType) -> str:
    return f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}"


def _measure() -> None:
    """A plain program has something to say with its first label. Servers and workers have their own moment: after they
    forked."""
    if runtime.segment is None and process_class() == "job":
        runtime.measure_self()
