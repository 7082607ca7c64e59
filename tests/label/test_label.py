"""Labels tell the CPU of a block apart: off they are nothing, on they are rows."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Generator, Iterator
from threading import Thread

import pytest

import taskwatt
import taskwatt_asyncio
from taskwatt import _integrations, accounts, pieces
from taskwatt.runtime import runtime
from tests.support.burner import burn
from tests.support.processes import clean_environ


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The agent is on, and this process is measured by nobody."""
    monkeypatch.setattr(_integrations, "_active", True)
    monkeypatch.setattr(runtime, "_refused", True)
    accounts.forget()
    yield
    accounts.forget()
    assert pieces.here() is None
    assert accounts.account.get() is None


@pytest.fixture
def measured_loops() -> Iterator[None]:
    taskwatt_asyncio.install()
    yield
    taskwatt_asyncio.uninstall()


def rows() -> dict[tuple[str, str], int]:
    return {key: row.number for key, row in accounts.rows().items() if row.number}


def cpu(name: str) -> float:
    return sum(row.cpu_s for key, row in accounts.rows().items() if key[0] == name)


def here(label: str) -> str:
    return f"{__name__}.{sys._getframe(1).f_code.co_qualname}[{label}]"


def test_a_label_without_an_agent_is_nothing() -> None:
    with taskwatt.label("render"):
        burn(0.001)
    assert taskwatt.label("render") is taskwatt.label("other")
    assert accounts.rows() == {}


def test_importing_the_package_and_a_label_without_an_agent_import_nothing() -> None:
    code = """
        import sys
        before = set(sys.modules)
        import taskwatt
        with taskwatt.label("x"):
            pass
        print(sorted(set(sys.modules) - before - {"__future__"}))
    """
    command = [sys.executable, "-I", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environ())
    assert done.stdout == "['taskwatt']\n"


def test_a_block_of_a_plain_function_is_a_row(on: None) -> None:
    with taskwatt.label("render"):
        truth = burn(0.02)
    assert rows() == {(here("render"), "useful"): 1}
    assert cpu(here("render")) == pytest.approx(truth, rel=0.03)


def test_a_thread_of_ones_own_is_measured_too(on: None) -> None:
    truth: list[float] = []

    def work() -> None:
        with taskwatt.label("first"):
            truth.append(burn(0.02))
        burn(0.01)
        with taskwatt.label("second"):
            truth.append(burn(0.03))

    thread = Thread(target=work)
    thread.start()
    thread.join()
    name = f"{__name__}.{work.__qualname__}"
    figures = [cpu(f"{name}[first]"), cpu(f"{name}[second]")]
    assert figures == pytest.approx(truth, rel=0.03)


def test_labels_nest_and_each_pays_for_itself(on: None) -> None:
    with taskwatt.label("outer"):
        outer = burn(0.02)
        with taskwatt.label("inner"):
            inner = burn(0.03)
        outer += burn(0.02)
    name = here("outer")
    assert cpu(name) == pytest.approx(outer, rel=0.03)
    assert cpu(name + "[inner]") == pytest.approx(inner, rel=0.03)


def test_a_label_within_a_row_takes_its_name_even_when_that_comes_later(on: None) -> None:
    request = accounts.open_account("GET (no route)")
    with taskwatt.label("middleware"):
        request.rename("GET /items/{id}")
    request.close()
    assert rows() == {
        ("GET /items/{id}", "useful"): 1,
        ("GET /items/{id}[middleware]", "useful"): 1,
    }


def test_a_block_that_raises_has_failed_and_the_exception_goes_on(on: None) -> None:
    error = ValueError("as it was")
    with pytest.raises(ValueError, match="as it was") as caught, taskwatt.label("x"):
        raise error
    assert caught.value is error
    assert rows() == {(here("x"), "failed"): 1}


def test_one_label_may_be_entered_again_and_again(on: None) -> None:
    label = taskwatt.label("x")
    with label, label:
        pass
    with label:
        pass
    assert rows() == {(here("x"), "useful"): 2, (here("x") + "[x]", "useful"): 1}


def test_a_label_in_a_generator_that_is_thrown_away_is_closed(on: None) -> None:
    def halves() -> Generator[int]:
        with taskwatt.label("half"):
            yield 1
            yield 2

    generator = halves()
    assert next(generator) == 1
    del generator
    assert rows() == {(f"{__name__}.{halves.__qualname__}[half]", "useful"): 1}


def test_a_label_in_a_task_refines_its_type_across_awaits(on: None, measured_loops: None) -> None:
    truth = {"one": 0.0, "two": 0.0}

    async def helper(name: str) -> None:
        with taskwatt.label(name):
            for _ in range(3):
                truth[name] += burn(0.02)
                await asyncio.sleep(0)
        burn(0.01)

    async def work(name: str) -> None:
        await helper(name)

    async def both() -> None:
        await asyncio.gather(work("one"), work("two"))

    asyncio.run(both())
    name = f"{__name__}.{work.__qualname__}"
    assert {key: cpu(f"{name}[{key}]") for key in truth} == pytest.approx(truth, rel=0.03)
    assert rows() == {(f"{name}[one]", "useful"): 1, (f"{name}[two]", "useful"): 1}


def test_a_label_in_a_callback_and_one_in_a_thread_pool_refine_theirs(on: None, measured_loops: None) -> None:
    truth: list[float] = []

    def labelled() -> None:
        with taskwatt.label("x"):
            truth.append(burn(0.03))

    async def main() -> None:
        asyncio.get_running_loop().call_soon(labelled)
        await asyncio.to_thread(labelled)

    asyncio.run(main())
    here = f"{__name__}.{main.__qualname__}".removesuffix("main")
    assert [cpu(f"{here}labelled[x]"), cpu(f"{here}main[x]")] == pytest.approx([0.03, 0.03], rel=0.03)
    assert sorted(rows()) == [(f"{here}labelled[x]", "useful"), (f"{here}main[x]", "useful")]


def test_a_cancelled_block_is_cancelled(on: None, measured_loops: None) -> None:
    async def waits() -> None:
        with taskwatt.label("x"):
            await asyncio.sleep(3600)

    async def cancel() -> None:
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(cancel())
    assert rows() == {(f"{__name__}.{waits.__qualname__}[x]", "cancelled"): 1}


def test_long_labels_are_cut_and_many_share_a_row(on: None) -> None:
    with taskwatt.label("x" * 1000):
        pass
    for number in range(accounts.MAX_NAMES + 7):
        with taskwatt.label(f"user {number}"):
            pass
    found = rows()
    assert len(found) == accounts.MAX_NAMES + 1
    assert max(len(name) for name, _ in found) == len(here("x" * 100))
    assert found["other", "useful"] == 8


def test_a_celery_attempt_pays_for_itself(on: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "attempts_pay", lambda: True)
    with taskwatt.label("x"):
        burn(0.001)
    assert rows() == {}
