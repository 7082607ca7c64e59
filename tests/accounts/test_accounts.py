"""Who pays for CPU: rows, what is open in them, and what runs in contexts copied from theirs."""

from __future__ import annotations

import threading
from contextvars import Context, copy_context
from typing import Any

import pytest

from taskwatt.observations import OTHER


def figures(accounts: Any) -> dict[tuple[str, str], tuple[int, float]]:
    return {key: (row.number, round(row.cpu_s, 9)) for key, row in accounts.rows().items() if row.number or row.cpu_s}


def test_what_an_open_row_pays_is_pending_and_moves_when_it_closes(accounts: Any) -> None:
    one = accounts.open_account("GET")
    assert one.bill(0.25)
    assert figures(accounts) == {("GET", "pending"): (1, 0.25)}
    one.rename("GET /items/{id}")
    assert figures(accounts) == {("GET /items/{id}", "pending"): (1, 0.25)}
    one.close("failed")
    assert figures(accounts) == {("GET /items/{id}", "failed"): (1, 0.25)}
    assert accounts.current() is None


def test_what_runs_after_a_row_closed_is_still_its_own(accounts: Any) -> None:
    one = accounts.open_account("GET /")
    late = copy_context()
    one.close()
    later = late[accounts.account]
    assert later is one
    assert later.bill(0.5)
    assert figures(accounts) == {("GET /", "useful"): (1, 0.5)}


def test_the_row_that_pays_is_known_of_any_context(accounts: Any) -> None:
    before = copy_context()
    row = accounts.open_account("GET (no route)")
    span = accounts.open_account()
    within = copy_context()
    row.rename("GET /items/{id}")
    span.close()
    row.close()
    assert [accounts.row_in(context) for context in (before, within, copy_context())] == ["", "GET /items/{id}", ""]


def test_an_account_without_a_name_adds_up_and_the_row_around_it_pays(accounts: Any) -> None:
    row = accounts.open_account("GET /")
    span = accounts.open_account()
    assert span.bill(0.125)
    span.close()
    assert accounts.current() is row
    assert row.bill(0.25)
    row.close()
    assert (span.cpu_s, row.cpu_s) == (0.125, 0.375)
    assert figures(accounts) == {("GET /", "useful"): (1, 0.375)}


def test_without_a_row_nobody_pays_and_the_account_adds_up_all_the_same(accounts: Any) -> None:
    span = accounts.open_account()
    assert not span.bill(0.25)
    span.close()
    assert (span.cpu_s, figures(accounts)) == (0.25, {})


def test_the_inner_of_two_rows_pays(accounts: Any) -> None:
    outer = accounts.open_account("GET /")
    inner = accounts.open_account("GET /[render]")
    inner.bill(0.5)
    inner.close()
    outer.close()
    assert outer.cpu_s == 0.5
    assert figures(accounts) == {("GET /", "useful"): (1, 0.0), ("GET /[render]", "useful"): (1, 0.5)}


def test_an_account_is_settled_before_another_becomes_current(accounts: Any) -> None:
    seen: list[str] = []

    def settler() -> None:
        one = accounts.current()
        seen.append(one.name if one is not None else "nobody")

    accounts.add_settler(settler)
    try:
        outer = accounts.open_account("outer")
        accounts.open_account("inner").close()
        outer.close()
    finally:
        accounts.remove_settler(settler)
    assert seen == ["nobody", "outer", "inner", "outer"]


def test_names_are_bounded(accounts: Any) -> None:
    for number in range(accounts.MAX_NAMES + 7):
        accounts.open_account(f"GET /{number}").close()
    rows = accounts.rows()
    assert sum(row.number for row in rows.values()) == accounts.MAX_NAMES + 7
    assert rows[OTHER, "useful"].number == 7


def test_nothing_is_lost_of_what_other_threads_bill_while_rows_close(accounts: Any) -> None:
    rows = [accounts.open_account(f"GET /{number}") for number in range(7)]

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


def test_a_context_that_outlived_its_account_has_the_one_around_it(accounts: Any) -> None:
    outer = accounts.open_account("GET /")
    inner = accounts.open_account("GET /[render]")
    late = copy_context()
    inner.close()
    assert late.run(accounts.current) is outer
    outer.close("cancelled")
    assert late.run(accounts.current) is None
    assert (inner.outcome, outer.outcome) == ("useful", "cancelled")


def test_an_account_that_is_closed_elsewhere_stays_current_where_it_was_opened_and_pays(accounts: Any) -> None:
    one = accounts.open_account("GET /")
    Context().run(one.close, "failed")
    assert accounts.account.get() is one
    assert accounts.current() is None
    assert one.bill(0.25)
    one.close("useful")
    assert figures(accounts) == {("GET /", "failed"): (1, 0.25)}
    accounts.account.set(None)


def test_a_row_may_have_every_outcome(accounts: Any) -> None:
    outcomes = ["useful", "failed", "cancelled", "retried", "useful"]
    for number, outcome in enumerate(outcomes):
        one = accounts.open_account("GET /")
        one.bill(number)
        one.close(outcome)
    assert figures(accounts) == {
        ("GET /", "useful"): (2, 4.0),
        ("GET /", "failed"): (1, 1.0),
        ("GET /", "cancelled"): (1, 2.0),
        ("GET /", "retried"): (1, 3.0),
    }


def test_several_open_rows_of_one_name_are_told_together(accounts: Any) -> None:
    rows = [accounts.Account("GET /") for _ in range(3)]
    for number, row in enumerate(rows):
        Context().run(row.open)
        row.bill(number)
    rows[1].close()
    assert figures(accounts) == {("GET /", "pending"): (2, 2.0), ("GET /", "useful"): (1, 1.0)}
    accounts.forget()
    assert accounts.rows() == {}


def test_a_settler_that_fails_is_told_to_who_opens(accounts: Any) -> None:
    def settler() -> None:
        raise ValueError("settler")

    accounts.add_settler(settler)
    try:
        with pytest.raises(ValueError, match="settler"):
            accounts.open_account("GET /")
        with pytest.raises(ValueError, match="settler"):
            accounts.settle()
    finally:
        accounts.remove_settler(settler)
        accounts.remove_settler(settler)
    assert accounts.current() is None
    accounts.settle()


def test_accounts_may_lie_in_each_other_thousands_deep(accounts: Any) -> None:
    def nest() -> Any:
        for _ in range(20_011):
            deepest = accounts.open_account()
        return deepest

    context = Context()
    deepest = context.run(nest)
    assert not deepest.bill(0.5)
    assert deepest.around.around.cpu_s == 0.5
    del deepest, context
