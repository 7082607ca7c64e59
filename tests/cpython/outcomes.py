"""`python -m tests.cpython.outcomes FILE NAME...`: run tests of the interpreter's own and write how each ended.

NAME is what unittest takes, a module or one test. FILE gets JSON: outcomes by test id (one test may have several: its
subtests), and what of the agent was at work in this process.
"""

from __future__ import annotations

import json
import sys
import unittest
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from tests.support.processes import heed_interrupts

Error: TypeAlias = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class Outcomes(unittest.TestResult):
    """Each test's outcomes in words; of a failure the exception, which says more than that it failed."""

    def __init__(self) -> None:
        super().__init__()
        self.by_test: dict[str, list[str]] = defaultdict(list)

    def _note(self, test: unittest.TestCase, word: str) -> None:
        self.by_test[test.id()].append(word)

    def addSuccess(self, test: unittest.TestCase) -> None:
        self._note(test, "ok")

    def addError(self, test: unittest.TestCase, err: Error) -> None:
        super().addError(test, err)
        self._note(test, f"error: {_name(err)}")

    def addFailure(self, test: unittest.TestCase, err: Error) -> None:
        super().addFailure(test, err)
        self._note(test, f"failure: {_name(err)}")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self._note(test, f"skipped: {reason}")

    def addExpectedFailure(self, test: unittest.TestCase, err: Error) -> None:
        self._note(test, "expected failure")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self._note(test, "unexpected success")

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Error | None) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._note(subtest, f"failure: {_name(err)}")


def _name(error: Error) -> str:
    return error[0].__name__ if error[0] is not None else ""


def run(names: list[str]) -> dict[str, Any]:
    """As `python -m unittest` would, but for what is printed."""
    support: Any = import_module("test.support")
    support.use_resources = []  # no network, no large files
    result = Outcomes()
    for name in names:
        try:
            suite = unittest.defaultTestLoader.loadTestsFromName(name)
        except unittest.SkipTest as skipped:
            result.by_test[name].append(f"skipped: {skipped}")
        else:
            suite.run(result)
    shown = {f"{test.id()}": text for test, text in [*result.errors, *result.failures]}
    return {"outcomes": result.by_test, "tracebacks": shown, **_at_work()}


def _at_work() -> dict[str, Any]:
    """What the agent counted meanwhile. A comparison with an agent that slept would compare nothing."""
    if "taskwatt_asyncio" not in sys.modules:
        return {"carrier": "", "steps": 0}
    from taskwatt.runtime import runtime

    if runtime.tallies is None:
        return {"carrier": "", "steps": 0}
    tallies = runtime.tallies()
    return {"carrier": tallies.carrier, "steps": sum(one.steps for one in tallies.coroutines.values())}


if __name__ == "__main__":
    heed_interrupts()
    Path(sys.argv[1]).write_text(json.dumps(run(sys.argv[2:])))
