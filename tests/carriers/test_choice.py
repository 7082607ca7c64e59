"""Which carrier measures, and why: decided once, said in one line, and never at the program's expense."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from asyncio import Handle
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import taskwatt
import taskwatt_celery.carriers
import taskwatt_fast
from taskwatt_asyncio import carriers
from tests.support.loops import measured


async def ran() -> str:
    await asyncio.sleep(0)
    return "ran"


def chosen(folder: Path) -> str:
    with measured(folder):
        assert asyncio.run(ran()) == "ran"
        return carriers.sentence


def test_the_accelerator_is_taken_where_it_was_built(c: Any, tmp_path: Path) -> None:
    assert chosen(tmp_path) == carriers.IN_C


def test_a_setting_refuses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKWATT_ACCELERATOR", "0")
    assert chosen(tmp_path) == f"{carriers.IN_PYTHON} (TASKWATT_ACCELERATOR=0 refuses the accelerator)"


def test_without_it_python_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("taskwatt_fast", "taskwatt_asyncio.accelerated"):
        monkeypatch.setitem(sys.modules, name, None)
    assert chosen(tmp_path) == f"{carriers.IN_PYTHON} (the accelerator, taskwatt-fast, is not installed)"


def test_where_its_compiled_part_is_missing_python_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "taskwatt_fast._carrier", None)
    assert chosen(tmp_path) == f"{carriers.IN_PYTHON} (the accelerator was not taken: it is not built)"


def test_one_of_another_version_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskwatt_fast.__version__", "0.0.9")
    monkeypatch.setattr("taskwatt.accelerator.__version__", "0.0.10")
    reason = "the accelerator, taskwatt-fast, is 0.0.9 and this is taskwatt 0.0.10"
    assert chosen(tmp_path) == f"{carriers.IN_PYTHON} ({reason})"


def test_both_distributions_are_of_one_version() -> None:
    assert taskwatt_fast.__version__ == taskwatt.__version__
    try:
        installed = version("taskwatt-fast")
    except PackageNotFoundError:  # where there is no compiler
        return
    assert installed == taskwatt_fast.__version__


WHO_MEASURES = """
import asyncio, json, logging, sys
logging.basicConfig(level="INFO", format="%(message)s")
import taskwatt
taskwatt.instrument()
asyncio.run(asyncio.sleep(0))
import celery, taskwatt_asyncio.carriers, taskwatt_celery.carriers
from taskwatt import accounts
loaded = sorted(name for name in sys.modules if name.startswith("taskwatt_fast"))
print(json.dumps([accounts.IN_C, taskwatt_asyncio.carriers.sentence, taskwatt_celery.carriers.sentence(), loaded]))
"""


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("__version__ = '99.0'", f"is 99.0 and this is taskwatt {taskwatt.__version__}"),
        ("", f"is of an unknown version and this is taskwatt {taskwatt.__version__}"),
        ("raise ImportError", "is not installed"),
    ],
)
def test_of_another_distribution_nothing_but_its_version_is_read(tmp_path: Path, source: str, why: str) -> None:
    """Nothing else is in it, and all three that ask do without."""
    package = tmp_path / "path" / "taskwatt_fast"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(source)
    environ = {name: value for name, value in os.environ.items() if name != "TASKWATT_ACCELERATOR"}
    environ |= {"PYTHONPATH": str(package.parent), "TASKWATT_DIR": str(tmp_path / "taskwatt")}
    done = subprocess.run(
        [sys.executable, "-c", WHO_MEASURES], env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    reason = f"the accelerator, taskwatt-fast, {why}"
    loops, tasks = f"{carriers.IN_PYTHON} ({reason})", f"{taskwatt_celery.carriers.IN_PYTHON} ({reason})"
    loaded = [] if source.startswith("raise") else ["taskwatt_fast"]
    assert json.loads(done.stdout) == [False, loops, tasks, loaded]
    assert done.stderr == f"taskwatt measures the steps of event loops with {loops}\n"


def test_a_compiled_part_that_cannot_be_loaded_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from taskwatt_fast import Refused
    from taskwatt_fast.compiled import loaded

    (tmp_path / f"damaged{EXTENSION_SUFFIXES[0]}").write_bytes(b"no machine code")
    (tmp_path / "incomplete.py").write_text("import nowhere_to_be_found")
    monkeypatch.syspath_prepend(tmp_path)
    said: list[str] = []
    for part in ("damaged", "incomplete"):
        with pytest.raises(Refused) as refused:
            loaded(part)
        said.append(str(refused.value))
    assert said[0].startswith(f"its compiled part cannot be loaded: {tmp_path}")
    assert said[1] == "its compiled part cannot be loaded: No module named 'nowhere_to_be_found'"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("abiflags", "t", "this is a free-threaded build of Python"),
        ("version_info", (3, 99, 0), "Python 3.99 is newer than any it was tried on"),
        ("implementation", SimpleNamespace(name="pypy"), "pypy is not CPython"),
    ],
)
def test_an_interpreter_that_it_does_not_know_refuses_it(
    name: str, value: object, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taskwatt_fast import Refused
    from taskwatt_fast.compiled import compiled

    with monkeypatch.context() as context:
        context.setattr(sys, name, value)
        with pytest.raises(Refused) as refused:
            compiled()
    assert str(refused.value) == reason


def test_a_method_that_somebody_replaced_is_not_replaced_again(
    c: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Handle._run

    def _run(self: Handle) -> None:
        seen.append(self)
        original(self)

    seen: list[Handle] = []
    monkeypatch.setattr(Handle, "_run", _run)
    assert "was not taken: asyncio.Handle._run is " in chosen(tmp_path)
    assert seen


def test_a_layout_that_is_not_the_expected_one_refuses_it(
    c: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taskwatt_fast import specimens

    python_task: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]
    monkeypatch.setattr(specimens.Quiet, "task", lambda self, coroutine: python_task(coroutine, loop=self))
    assert "was not taken: " in chosen(tmp_path)


def test_figures_that_are_not_the_expected_ones_refuse_it(
    c: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taskwatt_fast import trial

    expected = {**trial.EXPECTED, "returning": (6, 3, 3, 3, 0, 1)}
    monkeypatch.setattr(trial, "EXPECTED", expected)
    assert "was not taken: the steps of known tasks were counted as {'returning'" in chosen(tmp_path)


def test_the_choice_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    carriers._said.clear()  # pyright: ignore[reportPrivateUsage]
    with caplog.at_level(logging.INFO, "taskwatt"):
        first, second = chosen(tmp_path / "first"), chosen(tmp_path / "second")
    assert first == second
    said = [record.getMessage() for record in caplog.records if "steps of event loops" in record.getMessage()]
    assert said == [f"taskwatt measures the steps of event loops with {first}"]


IN_A_SUBINTERPRETER = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
code = '''
import sys
sys.path.insert(0, {folder!r})
try:
    import _carrier
except ImportError as error:
    print("refused:", error, flush=True)
'''
one = interpreters.create()
failed = interpreters.run_string(one, code.format(folder=sys.argv[1]))
if failed:
    print(failed)
interpreters.destroy(one)
"""


def test_a_subinterpreter_refuses_it(c: Any) -> None:
    command = [sys.executable, "-W", "ignore", "-c", IN_A_SUBINTERPRETER, str(Path(c.__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("refused: ")
    assert "subinterpreters" in done.stdout
