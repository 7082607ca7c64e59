"""A worker with the agent does, stores and logs what one without it does, and nothing else."""

from __future__ import annotations

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from taskwatt_celery import carriers
from tests.harm.conftest import StartWorker
from tests.support.worker import Worker

WATCHES = "taskwatt watches this worker (<process>): spans, metrics and `taskwatt triage`"
HEADERS = {"taskwatt_published", "taskwatt_previous", "traceparent"}


class Pair(NamedTuple):
    plain: Worker
    watched: Worker

    def both(self, task: str, *args: Any, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the result backend holds of one task that both ran, without what differs between any two runs."""
        with ThreadPoolExecutor(2) as threads:
            plain, watched = threads.map(lambda worker: run(worker, task, *args, **options), self)
        return plain, watched


@pytest.fixture(scope="module")
def pair(module_workers: StartWorker) -> Pair:
    return Pair(module_workers(TASKWATT_ENABLED=""), module_workers())


def run(worker: Worker, task: str, *args: Any, **options: Any) -> dict[str, Any]:
    result = worker.app.AsyncResult(worker.send(task, *args, **options))
    result.get(timeout=40, propagate=False)
    meta: dict[str, Any] = dict(result.backend.get_task_meta(result.id))
    return {key: plain(value) for key, value in meta.items() if key != "date_done"}


def plain(value: Any) -> Any:
    """Without ids, times, ports, pids and host names."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<id>", str(value))
    text = re.sub(r"redis://\S+", "<broker>", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(,\d+)?", "<time>", text)
    text = re.sub(r"\b\d+\.\d+(e-\d+)?s\b", "<seconds>", text)
    return re.sub(r"ForkPoolWorker-\d+|pid:? ?\d+|0x[0-9a-f]+|Job: \d+|gen\d+@\S+", "<process>", text)


@pytest.mark.parametrize(
    ("task", "args"),
    [
        ("add", (1, 2)),
        ("fail", ()),
        ("fail_with_a_cause", ()),
        ("fail_to_encode", ()),
        ("return_what_cannot_be_stored", ()),
        ("no_such_arguments", ()),
        ("add", (1,)),
        ("retry_eagerly_raised", ()),
        ("autoretry", ()),
        ("retry", (5,)),
        ("nested", ()),
        ("custom", (7,)),
        ("caller", ()),
        ("warn", ()),
        ("soft", ()),
        ("soft_uncaught", ()),
    ],
)
def test_results_and_tracebacks_are_the_same(pair: Pair, task: str, args: tuple[Any, ...]) -> None:
    if task == "no_such_arguments":
        task, args = "add", (1, 2, 3)
    before, after = pair.both(task, *args)
    assert after == before
    assert "taskwatt" not in str(after)


def test_a_task_sees_our_headers_and_no_other_difference(pair: Pair) -> None:
    """The messages come from a client that is not watched, so the first attempt has none; a retry has them all."""
    plain_request, watched_request = (worker.app.AsyncResult(worker.send("request")).get(timeout=30) for worker in pair)
    different = {"id", "root_id", "correlation_id", "reply_to", "hostname", "delivery_info", "timelimit", "expires"}
    assert plain_request.keys() == watched_request.keys()
    for key in plain_request.keys() - different:
        assert plain(watched_request[key]) == plain(plain_request[key])
    assert watched_request["delivery_info"].keys() == plain_request["delivery_info"].keys()
    plain_retry, watched_retry = (worker.app.AsyncResult(worker.send("retry", 2)).get(timeout=30) for worker in pair)
    ours = watched_retry.pop("headers") or {}
    theirs = plain_retry.pop("headers") or {}
    assert (watched_retry, ours.keys() - theirs.keys()) == (plain_retry, HEADERS)
    assert {key: ours[key] for key in theirs} == theirs


def test_a_task_whose_process_is_killed_runs_again(pair: Pair, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        marks = [str(tmp_path / "plain"), str(tmp_path / "watched")]
        results = list(threads.map(lambda worker, mark: run(worker, "die_once", mark), pair, marks))
    assert [result["status"] for result in results] == ["SUCCESS", "SUCCESS"]
    assert [result["result"] for result in results] == ["True", "True"]


def test_without_the_variable_a_worker_imports_nothing_of_the_agent(pair: Pair) -> None:
    modules = [worker.app.AsyncResult(worker.send("modules")).get(timeout=30) for worker in pair]
    assert modules[0] == []
    assert "taskwatt_celery.hook" in modules[1]


def test_the_log_is_the_same_but_for_lines_of_the_agent(pair: Pair) -> None:
    """Runs last: of everything that the tests above made both workers say, the agent adds its own INFO lines only."""
    for worker in pair:
        worker.end()
    told = re.compile(r"Task tests\.(modules|retry)\[<id>\] succeeded")  # those tell what differs, as they should
    before, after = (
        Counter(line for line in plain(worker.log).splitlines() if not told.search(line)) for worker in pair
    )
    added = sorted((after - before).elements())
    assert [line for line in added if "taskwatt" not in line] == []
    assert sorted((before - after).elements()) == []
    assert [line for line in added if "INFO" not in line] == []
    measures = f"taskwatt measures tasks with {carriers.sentence()}"
    assert [line.rpartition("] ")[2] for line in added] == [measures, WATCHES]
