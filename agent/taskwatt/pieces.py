"""CPU of threads that run no event loop, measured in pieces on the thread's own clock.

A piece is a stretch of one thread's work that somebody pays for: an item of a thread pool, a request of a synchronous
server, a labelled block. What it used is billed when it ends, and in between whenever another account is about to
become current (`accounts.settle`). Pieces nest: while an inner one runs, the outer one's clock stands still. So it does
while an event loop runs inside of a piece, whose steps are measured by their own carrier.

Cost: 1.5 us a piece.
"""

from __future__ import annotations

import os
import sys
import threading
from time import thread_time
from typing import Protocol

from taskwatt import accounts
from taskwatt.accounts import Account


class Own(Protocol):
    """Who pays where no account's row does: a coroutine or callback type."""

    name: str
    paid_s: float
    """Of the CPU of its own steps, what somebody else pays for; less what it pays for beyond those."""


class Piece:
    """Made by `begin`, or by `pause`."""

    __slots__ = ("account", "around", "before", "cpu_s", "own", "paid", "since")

    def __init__(self, around: Piece | None, account: Account | None, own: Own | None, paid: bool) -> None:
        self.around = around
        self.account = account
        self.own = own
        self.paid = paid
        self.before: Account | None = None
        self.since = 0.0
        self.cpu_s = 0.0

    def settle(self, now: float) -> None:
        seconds, self.since = now - self.since, now
        if not self.paid or seconds <= 0.0:  # below 0: in a process forked in the middle of it
            return
        self.cpu_s += seconds
        account = accounts.account.get()
        if (account is None or not account.bill(seconds)) and self.own is not None:
            self.own.paid_s -= seconds


class _Here(threading.local):
    piece: Piece | None = None


_here = _Here()
_counting = threading.RLock()
_number = 0
"""Of pieces, of all threads: while there is none, nothing has to be settled when an account is opened."""


def here() -> Piece | None:
    """The innermost piece of the calling thread."""
    return _here.piece


def loop_runs() -> bool:
    """Does an event loop run in the calling thread? Then its carrier measures."""
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None


def begin(account: Account | None = None, own: Own | None = None) -> Piece:
    """From here on this thread works for `account`, which becomes current in this context; else for `own`."""
    around = _here.piece
    piece = Piece(around, account, own, paid=True)
    _count(1)
    piece.before = accounts.account.get()
    now = thread_time()
    if around is not None:
        around.settle(now)
    accounts.account.set(account)
    piece.since = now
    _here.piece = piece
    return piece


def end(piece: Piece) -> None:
    """On the thread and in the context that began it. Idempotent; ends what was begun within it and not ended."""
    one, ended = _here.piece, 1
    while one is not None and one is not piece:
        one, ended = one.around, ended + 1
    if one is None:
        return
    now = thread_time()
    inner = _here.piece
    if inner is not None:
        inner.settle(now)
    _here.piece = piece.around
    if piece.paid:
        accounts.account.set(piece.before)
    if piece.around is not None:
        piece.around.since = now
    _count(-ended)


def pause() -> Piece | None:
    """Somebody else measures this thread until `end` is called with what this returns. None: it is in no piece."""
    around = _here.piece
    if around is None:
        return None
    around.settle(thread_time())
    _here.piece = piece = Piece(around, None, None, paid=False)
    _count(1)
    return piece


def _settle() -> None:
    piece = _here.piece
    if piece is not None:
        piece.settle(thread_time())


def _count(change: int) -> None:
    """Most accounts are opened where no piece is: in event loops. They shall not pay for asking."""
    global _number
    with _counting:
        before, _number = _number, _number + change
        if not before:
            accounts.add_settler(_settle)
        elif not _number:
            accounts.remove_settler(_settle)


def _forget() -> None:
    """In a process that was just forked: the pieces of other threads will not end."""
    global _counting, _number
    _counting = threading.RLock()
    accounts.remove_settler(_settle)
    _number, piece = 0, _here.piece
    while piece is not None:
        _number, piece = _number + 1, piece.around
    if _number:
        accounts.add_settler(_settle)


os.register_at_fork(after_in_child=_forget)
