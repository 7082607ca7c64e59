"""A message that ends every process that takes it, on a real worker: found under its name; one accident is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.processes import wait_for
from tests.support.worker import Worker


def never_settles(worker: Worker) -> list[dict[str, Any]]:
    said = worker.triage("--json").stdout
    findings = worker.document()["findings"] if said else []
    return [one for one in findings if one["cause"] == "never_settles"]


def test_a_message_that_ends_every_process_that_takes_it_is_found(start_worker: Callable[..., Worker]) -> None:
    worker = start_worker()
    worker.send("kill_itself_anew")
    wait_for(lambda: [one for one in never_settles(worker) if one["verdict"] == "found"], 60, "the finding")
    (found,) = never_settles(worker)
    assert (found["subtype"], found["task"]) == ("poison_message", "tests.kill_itself_anew")


def test_a_message_that_came_back_once_and_was_worked_on_is_clear(start_worker: Callable[..., Worker]) -> None:
    worker = start_worker()
    wait_for(lambda: worker.triage().stdout, 30, "the first verdict")  # windows begin with the first tick
    worker.send("kill_itself_once")

    def ended() -> bool:
        said = worker.triage("--json").stdout
        rows = worker.document()["ledger"]["rows"] if said else []
        return {row["outcome"] for row in rows if row["task"] == "tests.kill_itself_once"} >= {"cancelled", "useful"}

    wait_for(ended, 60, "both attempts")
    wait_for(lambda: [one["verdict"] for one in never_settles(worker)] == ["clear"], 30, "the verdict")
