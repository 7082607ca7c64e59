"""Accounts in pure Python, for processes without the accelerator; accounts.py says what they are.

Twin of `taskwatt_fast/accounts.c` and what it names: who changes one changes the other, and both run the same tests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from time import monotonic
from typing import Final, Self

from taskwatt.observations import OTHER, Outcome, RowTally

MAX_NAMES: Final = 500


@dataclass(slots=True)
class _Row:
    number: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0


class Account:
    """Made, opened and closed once, in one context. `cpu_s` is what it and the accounts within it have paid until now.

    Billing takes no lock, so that it costs little: each figure is added to in one statement, which CPython does not
    interrupt. An open row keeps what it paid to itself, and is summed up when somebody reads `rows()`.
    """

    __slots__ = ("_booked_s", "_opened", "_row", "_token", "around", "closed", "cpu_s", "name", "outcome", "own_s")

    def __init__(self, name: str = "") -> None:
        """`name`: its row in the ledger; empty: it only adds up."""
        self.around = around = current()
        self._row: Account | None = self if name else around._row if around is not None else None
        self._opened = monotonic()
        self.own_s = 0.0
        """What it has paid as a row."""
        self._booked_s = 0.0
        self._token: Token[Account | None] | None = None
        self.name = name if not name or name in _names else _capped(name)
        self.outcome: Outcome = "pending"
        self.closed = False
        self.cpu_s = 0.0

    @classmethod
    def begin(cls, name: str) -> Self:
        """One of this name, made and opened."""
        begun = cls(name)
        begun.open()
        return begun

    def open(self) -> None:
        """Current in this context from here on, and in those copied from it."""
        global _in_use
        _in_use = True
        settle()
        before = account.get()
        token = account.set(self)
        if self._row is self:
            _open.add(self)
            if before is None:
                self._token = token

    @property
    def has_row(self) -> bool:
        """Is there a row that pays for it?"""
        return self._row is not None

    @property
    def row_name(self) -> str:
        """Of the row that pays for it; empty where none does."""
        return self._row.name if self._row is not None else ""

    def bill(self, seconds: float) -> bool:
        """Pay for `seconds` of CPU. False when no row does: then it is the coroutine type's. Any thread."""
        self.cpu_s += seconds
        around = self.around
        while around is not None:
            around.cpu_s += seconds
            around = around.around
        row = self._row
        if row is None:
            return False
        row.own_s += seconds
        if row.closed:  # seen only after the addition: whoever comes last books it
            with _lock:
                row._book(_of(row.name, row.outcome))
        return True

    def rename(self, name: str) -> None:
        """A row learns its name late: the route is known when the router has run. What it paid moves along."""
        self.name = name if name in _names else _capped(name)

    def close(self, outcome: Outcome = "useful") -> None:
        """No longer current here; a row is booked under `outcome`, as is what it still pays for afterwards.

        Idempotent. In the context that opened it, or in any other: there it only ceases to be pending.
        """
        if self.closed:
            return
        settle()
        if account.get() is self:
            self._set_back()
        if self._row is not self:
            self.closed = True
            return
        self.outcome = outcome
        with _lock:
            self.closed = True
            _open.discard(self)
            row = _of(self.name, outcome)
            row.number += 1
            row.wall_s += monotonic() - self._opened
            self._book(row)

    def _set_back(self) -> None:
        """Where nothing was current before, nothing of ours stays in the context, which may live long (a timer's)."""
        token, self._token = self._token, None
        try:
            if token is not None:
                account.reset(token)
                return
        except ValueError:  # it is closed in a copy of the context
            pass
        account.set(self.around)

    def _book(self, row: _Row) -> None:
        """Move what a closed row has paid to the table. Holding the lock."""
        own_s = self.own_s
        row.cpu_s += own_s - self._booked_s
        self._booked_s = own_s


account: ContextVar[Account | None] = ContextVar("taskwatt_account", default=None)
"""The innermost open account of the running code; carriers read it at the end of a piece."""

_lock = threading.RLock()
"""A generator that is collected while it is held may close an account of its own."""
_names: set[str] = set()
_rows: dict[tuple[str, Outcome], _Row] = {}
"""Of what is closed."""
_open: set[Account] = set()
"""The rows that are not."""
_settlers: list[Callable[[], None]] = []
_in_use = False


def in_use() -> bool:
    """Has this process ever opened one? Then one may be open in any context."""
    return _in_use


def current() -> Account | None:
    """The innermost account that is open here. A context may outlive those it was copied from."""
    one = account.get()
    while one is not None and one.closed:
        one = one.around
    return one


def settle() -> None:
    """Have the piece of CPU that is being measured on this thread billed to the account that is current until now."""
    for settler in _settlers:
        settler()


def add_settler(settler: Callable[[], None]) -> None:
    """`settler()` bills what the calling thread's running piece has used so far; nothing when it runs none."""
    _settlers.append(settler)


def remove_settler(settler: Callable[[], None]) -> None:
    if settler in _settlers:
        _settlers.remove(settler)


def rows() -> Mapping[tuple[str, Outcome], RowTally]:
    """Totals of every row since the process began, by name and outcome; `pending` is what is open. Any thread."""
    with _lock:
        told = {key: RowTally(row.number, row.cpu_s, row.wall_s) for key, row in _rows.items()}
        pending: dict[str, tuple[int, float]] = {}
        for row in _open.copy():
            number, cpu_s = pending.get(row.name, (0, 0.0))
            pending[row.name] = number + 1, cpu_s + row.own_s
    told.update({(name, "pending"): RowTally(number, cpu_s, 0.0) for name, (number, cpu_s) in pending.items()})
    return told


def forget() -> None:
    """After a fork, and when the agent is taken out: nothing was ever paid."""
    global _lock
    _lock = threading.RLock()
    _open.clear()
    _rows.clear()
    _names.clear()


def _capped(name: str) -> str:
    if name not in _names:
        if len(_names) >= MAX_NAMES:
            return OTHER
        _names.add(name)
    return name


def _of(name: str, outcome: Outcome) -> _Row:
    row = _rows.get((name, outcome))
    return row if row is not None else _rows.setdefault((name, outcome), _Row())
