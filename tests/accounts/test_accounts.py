"""Who pays for CPU: rows, what is open in them, and what runs in contexts copied from theirs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextvars import copy_context

import pytest

from taskwatt import accounts
from taskwatt.accounts import open_account, row_in
from taskwatt.observations import OTHER


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    accounts.forget()
    yield
    accounts.forget()


def figures() -> dict[tuple[str, str], tuple[int, float]]:
    return {key: (row.number, round(row.cpu_s, 9)) for key, row in accounts.rows().items() if row.number or row.cpu_s}


def test_what_an_open_row_pays_is_pending_and_moves_when_it_closes() -> None:
    one = open_account("GET")
    assert one.bill(0.25)
    assert figures() == {("GET", "pending"): (1, 0.25)}
    one.rename("GET /items/{id}")
    assert figures() == {("GET /items/{id}", "pending"): (1, 0.25)}
    one.close("failed")
    assert figures() == {("GET /items/{id}", "failed"): (1, 0.25)}
    assert accounts.current() is None


def test_what_runs_after_a_row_closed_is_still_its_own() -> None:
    one = open_account("GET /")
    late = copy_context()
    one.close()
    later = late[accounts.account]
    assert later is one
    assert later.bill(0.5)
    assert figures() == {("GET /", "useful"): (1, 0.5)}


def test_the_row_that_pays_is_known_of_any_context() -> None:
    before = copy_context()
    row = open_account("GET (no route)")
    span = open_account()
    within = copy_context()
    row.rename("GET /items/{id}")
    span.close()
    row.close()
    assert [row_in(context) for context in (before, within, copy_context())] == ["", "GET /items/{id}", ""]


def test_an_account_without_a_name_adds_up_and_the_row_around_it_pays() -> None:
    row = open_account("GET /")
    span = open_account()
    assert span.bill(0.125)
    span.close()
    assert accounts.current() is row
    assert row.bill(0.25)
    row.close()
    assert (span.cpu_s, row.cpu_s) == (0.125, 0.375)
    assert figures() == {("GET /", "useful"): (1, 0.375)}


def test_without_a_row_nobody_pays_and_the_account_adds_up_all_the_same() -> None:
    span = open_account()
    assert not span.bill(0.25)
    span.close()
    assert (span.cpu_s, figures()) == (0.25, {})


def test_the_inner_of_two_rows_pays() -> None:
    outer = open_account("GET /")
    inner = open_account("GET /[render]")
    inner.bill(0.5)
    inner.close()
    outer.close()
    assert outer.cpu_s == 0.5
    assert figures() == {("GET /", "useful"): (1, 0.0), ("GET /[render]", "useful"): (1, 0.5)}


def test_an_account_is_settled_before_another_becomes_current() -> None:
    seen: list[str] = []

    def settler() -> None:
        one = accounts.current()
        seen.append(one.name if one is not None else "nobody")

    accounts.add_settler(settler)
    try:
        outer = open_account("outer")
        open_account("inner").close()
        outer.close()
    finally:
        accounts.remove_settler(settler)
    assert seen == ["nobody", "outer", "inner", "outer"]


def test_names_are_bounded() -> None:
    for number in range(accounts.MAX_NAMES + 7):
        open_account(f"GET /{number}").close()
    rows = accounts.rows()
    assert sum(row.number for row in rows.values()) == accounts.MAX_NAMES + 7
    assert rows[OTHER, "useful"].number == 7


def test_nothing_is_lost_of_what_other_threads_bill_while_rows_close() -> None:
    rows = [open_account(f"GET /{number}") for number in range(7)]

    def bills() -> None:
        for _ in range(20_011):
            for row in rows:
                row.bill(2**-20)

    threads = [threading.Thread(target=bills) for _ in range(3)]
    for thread in threads:
        thread.start()
    for row in reversed(rows):
        row.close()
    for thread in threads:
        thread.join()
    paid = {key: (row.number, row.cpu_s) for key, row in accounts.rows().items()}
    assert paid == {(f"GET /{number}", "useful"): (1, 3 * 20_011 * 2**-20) for number in range(7)}
