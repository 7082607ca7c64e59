"""Who pays for the CPU that is being used now: a request, a labelled block, a span.

One context variable holds the innermost open account. Whatever runs in that context, or in one copied from it (child
tasks, `to_thread`), is billed to that account and to all around it. Carriers (the hooks of the event loop, of
executors, of WSGI servers) measure pieces of CPU and call `bill`. Whoever opens or closes an account in the middle of
a piece has that piece settled first, so that nobody pays for what ran before.

An account with a name is a **row** of the ledger: `GET /items/{id}`. What a row pays for is not booked to a coroutine
type as well. An account without a name only adds up: a span's CPU.

A web server opens one for each request, so they are written twice: in C where the accelerator is installed, which then
bills steps without calling anything, and in Python (pure_accounts.py). Chosen once, when this module is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from taskwatt.accelerator import unusable
from taskwatt.observations import Outcome, RowTally

__all__ = [
    "IN_C",
    "MAX_NAMES",
    "Account",
    "account",
    "add_settler",
    "current",
    "forget",
    "in_use",
    "open_account",
    "part_in_c",
    "remove_settler",
    "row_in",
    "rows",
    "settle",
]


def _part_in_c() -> Any:
    """None where there is none, or none is wanted."""
    if unusable():
        return None
    from taskwatt_fast import Refused
    from taskwatt_fast.compiled import compiled

    try:
        return compiled()
    except Refused:
        return None


part_in_c: Any = _part_in_c()
IN_C: Final = part_in_c is not None
"""Then the accelerator's carrier settles and bills by itself."""

if TYPE_CHECKING or not IN_C:
    from taskwatt.pure_accounts import (
        MAX_NAMES,
        Account,
        account,
        add_settler,
        current,
        forget,
        in_use,
        remove_settler,
        rows,
        settle,
    )
else:
    MAX_NAMES, Account, account = part_in_c.MAX_NAMES, part_in_c.Account, part_in_c.account
    in_use, current, settle = part_in_c.in_use, part_in_c.current_account, part_in_c.settle_all
    add_settler, remove_settler, forget = part_in_c.add_settler, part_in_c.remove_settler, part_in_c.forget_accounts

    def rows() -> Mapping[tuple[str, Outcome], RowTally]:
        told: dict[tuple[str, Outcome], RowTally] = {}
        for name, outcome, number, cpu_s, wall_s in part_in_c.account_rows():
            before = told.get((name, outcome), RowTally(0, 0.0, 0.0))
            told[name, outcome] = RowTally(before.number + number, before.cpu_s + cpu_s, before.wall_s + wall_s)
        return told


def row_in(context: Context) -> str:
    """The name of the row that pays in a context, which may be running elsewhere; empty for none. Any thread."""
    one = context.get(account)
    return one.row_name if one is not None else ""


def open_account(name: str = "") -> Account:
    """Make an account current in this context. `name`: its row in the ledger; empty: it only adds up."""
    return Account.begin(name)
