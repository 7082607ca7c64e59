"""One module of CPython's tests with the agent and without: where do their outcomes differ?

Some of those tests measure time, and on a busy machine they fail by themselves now and then. So a test that ended
differently is run again, within its whole module (it may matter what ran before it) and in turn without and with the
agent; different is what was different each time.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from tests.support.processes import REPOSITORY, clean_environ

PLAIN: Final = "plain"
VARIANTS: Final = {
    PLAIN: {},
    "pure Python": {"TASKWATT_ENABLED": "1", "TASKWATT_ACCELERATOR": "0"},
    "accelerator": {"TASKWATT_ENABLED": "1", "TASKWATT_ACCELERATOR": "auto"},
}
"""By name: the environment. The last is left out where the accelerator is not built."""
AGAIN: Final = 2
PATIENCE_S: Final = 600.0
PRINTED: Final = 2000
"""Characters of the last output that are shown of a process that did not end."""

Outcomes: TypeAlias = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of some tests in a process of their own."""

    outcomes: Outcomes
    carrier: str
    steps: int
    """Steps that the agent counted."""
    tracebacks: dict[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    test: str
    plain: list[str]
    watched: list[str]
    traceback: str
    """Of the test as it failed with the agent."""

    def __str__(self) -> str:
        return f"{self.test}: {self.plain} without, {self.watched} with\n{self.traceback}"


@dataclass(frozen=True, slots=True)
class Comparison:
    module: str
    variant: str
    tests: int
    steps: int
    """That the agent counted; a comparison with an agent that slept would compare nothing."""
    carrier: str
    differences: list[Difference]


def missing() -> str:
    """Why CPython's tests cannot be run here; empty when they can."""
    if importlib.util.find_spec("test") is None or importlib.util.find_spec("test.test_asyncio") is None:
        return f"{sys.executable} came without its own test package (Debian: libpython3-testsuite)"
    return ""


def accelerator_missing() -> bool:
    return importlib.util.find_spec("taskwatt_fast") is None


def modules() -> list[str]:
    """All modules of test.test_asyncio that this interpreter has, by their short names."""
    package = importlib.util.find_spec("test.test_asyncio")
    assert package is not None
    assert package.submodule_search_locations is not None
    folder = Path(package.submodule_search_locations[0])
    return sorted(path.stem for path in folder.glob("test_*.py"))


def run(variant: str, names: Iterable[str], patience_s: float = PATIENCE_S) -> Run:
    """`names` as unittest takes them, in one process; CalledProcessError when that process itself failed.

    Of one that does not end in time all tests are said to be so: what it had done until then is not known.
    """
    names = list(names)
    with tempfile.TemporaryDirectory(prefix="taskwatt-cpython-") as temporary:
        found = Path(temporary, "outcomes")
        environ = clean_environ(PYTHONHASHSEED="0", **VARIANTS[variant], TASKWATT_DIR=f"{temporary}/taskwatt")
        try:
            done = subprocess.run(
                [sys.executable, "-m", "tests.cpython.outcomes", str(found), *names],
                cwd=temporary,
                env=environ | {"PYTHONPATH": str(REPOSITORY)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=patience_s,
            )
        except subprocess.TimeoutExpired as late:
            printed = (late.stdout or b"").decode("utf-8", "replace")[-PRINTED:]
            return Run(
                {name: [f"not ended after {patience_s:g} s"] for name in names}, "", 0, dict.fromkeys(names, printed)
            )
        if not found.exists():
            raise subprocess.CalledProcessError(done.returncode, done.args, done.stdout)
        read: dict[str, Any] = json.loads(found.read_text())
    return Run(**read)


def different(plain: Run, watched: Run) -> set[str]:
    """Ids of the tests that did not end alike, or that only one of them ran."""
    either = plain.outcomes.keys() | watched.outcomes.keys()
    return {test for test in either if plain.outcomes.get(test) != watched.outcomes.get(test)}


def compare(name: str, variant: str, plain: Run) -> Comparison:
    """Run `name` with the agent, and again in turn without and with it while any test differs each time."""
    watched = run(variant, [name])
    tests = different(plain, watched)
    before, after = plain, watched
    for _ in range(AGAIN):
        if not tests:
            break
        before, after = run(PLAIN, [name]), run(variant, [name])
        tests &= different(before, after)
    found = [
        Difference(test, before.outcomes.get(test, []), after.outcomes.get(test, []), after.tracebacks.get(test, ""))
        for test in sorted(tests)
    ]
    return Comparison(name, variant, len(watched.outcomes), watched.steps, watched.carrier, found)
