"""The line where CPU burns, from a real worker: of attempts that end, and of one that never does."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from taskwatt.code_probe import probe
from tests.support.processes import wait_for
from tests.support.receiver import ReceivedSpan, Receiver
from tests.support.worker import Worker

pytestmark = pytest.mark.alone


def hot_code(worker: Worker, task: str) -> dict[str, Any]:
    """What triage says about the task's line; empty as long as it says nothing."""
    said = worker.triage("--json").stdout
    known = {each["task"]: each for each in json.loads(said)["ledger"]["code"]} if said else {}
    found: dict[str, Any] = known.get(task, {})
    return found


def test_the_line_of_attempts_that_are_short_is_in_triage_and_on_spans(
    start_worker: Callable[..., Worker], receiver: Receiver
) -> None:
    worker = start_worker(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)

    def looked() -> dict[str, Any]:
        for _ in range(40):  # as much as it does until it is looked at again
            worker.send("burn", 0.011)
        return hot_code(worker, "tests.burn")

    wait_for(looked, 30, "a line")
    assert hot_code(worker, "tests.burn")["function"] == "burn_for"
    worker.send("burn", 0.13)

    def hot_spans() -> list[ReceivedSpan]:
        return [span for span in receiver.named("run/tests.burn") if span.attributes["taskwatt.cpu.time"] > 0.1]

    wait_for(hot_spans, 40, "the long attempt's span")
    hot = hot_spans()
    assert [span.attributes["code.function.name"] for span in hot] == ["burn_for"]


def test_the_line_of_a_call_in_c_that_keeps_the_interpreter_is_in_triage(start_worker: Callable[..., Worker]) -> None:
    worker = start_worker()
    for _ in range(60):
        worker.send("match", 20)
    wait_for(lambda: hot_code(worker, "tests.match").get("line"), 30, "a line")
    found = hot_code(worker, "tests.match")
    assert (found["function"], found["share"] > 0.9) == ("has_words_only", True)


def test_the_line_of_an_attempt_that_never_returns_is_read_from_outside(
    start_worker: Callable[..., Worker], receiver: Receiver
) -> None:
    worker = start_worker(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    worker.send("spin_for_ever")
    wait_for(lambda: hot_code(worker, "tests.spin_for_ever"), 40, "a line, or a reason")
    found = hot_code(worker, "tests.spin_for_ever")
    (child,) = worker.children
    if isinstance(probe(child.pid), str):
        assert found["missing"]
        pytest.skip(f"a reason was given, since no line can be read here: {found['missing']}")
    assert found["function"] == "spin"
    child.kill()
    wait_for(lambda: receiver.named("run/tests.spin_for_ever"), 30, "the killed attempt's span")
    (span,) = receiver.named("run/tests.spin_for_ever")
    assert (span.attributes["code.function.name"], span.attributes["taskwatt.task.outcome"]) == ("spin", "cancelled")
