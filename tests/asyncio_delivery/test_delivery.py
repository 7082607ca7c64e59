"""One environment variable and an endpoint: what event loops do arrives there, and `taskwatt triage` shows it."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.processes import at_once, free_port, wait_for
from tests.support.program import Program, answers
from tests.support.receiver import Receiver

ITEMS = 23


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def started(stack: ExitStack, receiver: Receiver, folder: Path, *arguments: str) -> Program:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_METRIC_EXPORT_INTERVAL": "1000"}
    return stack.enter_context(Program(folder, *arguments, **environ))


def servers(port: int) -> dict[str, tuple[str, ...]]:
    uvicorn = ("-m", "uvicorn", "tests.asyncio_delivery.fastapi_app:app", "--port", str(port), "--log-level", "warning")
    return {
        "uvicorn on asyncio": (*uvicorn, "--loop", "asyncio"),
        "uvicorn on uvloop": (*uvicorn, "--loop", "uvloop"),
        "aiohttp": ("-m", "tests.asyncio_delivery.aiohttp_app", str(port)),
    }


@pytest.mark.parametrize("server", servers(0))
def test_a_server_is_measured_delivered_and_shown(
    server: str, stack: ExitStack, receiver: Receiver, tmp_path: Path
) -> None:
    port = free_port()
    program = started(stack, receiver, tmp_path, *servers(port)[server])
    url = f"http://127.0.0.1:{port}"
    program.serves(f"{url}/items/0")
    wait_for(lambda: program.document().get("loops"), 60, "a loop in the triage")
    for number in range(ITEMS):
        assert answers(f"{url}/items/{number}")
    assert answers(f"{url}/blocking/0")

    def useful() -> float:
        outcome = {"taskwatt__task__outcome": "useful", "taskwatt__process__class": "web"}
        return receiver.total("taskwatt.cpu.time", taskwatt__task__name="GET /items/{number}", **outcome)

    wait_for(lambda: useful() >= 0.9 * ITEMS * 0.005, 60, "the items' CPU")
    wait_for(lambda: receiver.total("asyncio.eventloop.delay") > 0, 60, "the loop's delay")
    wait_for(lambda: receiver.total("asyncio.eventloop.time", state="busy") >= 0.3, 60, "the blocked time")
    assert receiver.total("asyncio.task.steps") > ITEMS

    document = program.document()
    (loop,) = [one for one in document["loops"] if one["name"] == "MainThread"]
    assert (loop["process_class"], loop["kind"]) == ("web", "uvloop" if "uvloop" in server else "asyncio")
    assert document["carriers"]
    assert [one["process_class"] for one in document["classes"] if one["verdict"] != "not_seen"] == ["web"]
    assert sum(row["cpu_s"] for row in document["ledger"]["rows"] if row["outcome"] == "useful") > 0.0
    assert "not seen here: worker, scheduler, job" in program.triage()
    # uvicorn ends by the signal, aiohttp in order; either says nothing and leaves nothing.
    assert program.end() == (0 if server == "aiohttp" else -signal.SIGTERM)
    assert program.output == ""
    assert program.agents == []


INCIDENT = "taskwatt.finding loop_blocked"


class Blocked(NamedTuple):
    told: list[tuple[str, Mapping[str, Any]]]
    """Names and attributes of the spans of the incident and of its stalls."""
    findings: list[tuple[str, str]]
    """Verdict and task of what the triage says of the loop."""


@pytest.fixture(scope="module")
def blocked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Blocked]:
    """What is told of each server, while one of its routes blocks the loop."""

    def run(server: str) -> Blocked:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        asked = count()
        receiver = Receiver()

        def opened() -> bool:
            assert answers(f"{url}/blocking/{next(asked)}")
            return bool(receiver.named(INCIDENT))

        with ExitStack() as stack:
            receiver.start()
            stack.callback(receiver.stop)
            program = started(stack, receiver, tmp_path_factory.mktemp("blocked"), *servers(port)[server])
            program.serves(f"{url}/items/0")
            wait_for(opened, 60, "the incident of a blocked loop")
            wait_for(lambda: receiver.named("asyncio.stall"), 30, "its stalls")
            stalls = [
                one for one in receiver.named("asyncio.stall") if one.attributes["taskwatt.stall.duration"] >= 0.3
            ]
            told = [(one.name, one.attributes) for one in (*receiver.named(INCIDENT), *stalls)]
            findings = [one for one in program.document()["findings"] if one["cause"] == "loop_blocked"]
            return Blocked(told, [(one["verdict"], one["task"]) for one in findings])

    return dict(zip(servers(0), at_once(run, servers(0)), strict=True))


@pytest.mark.parametrize("server", servers(0))
def test_a_route_that_blocks_the_loop_gives_the_stalls_and_the_incident_its_name(
    server: str, blocked: dict[str, Blocked]
) -> None:
    found = blocked[server]
    assert {(name, tags["taskwatt.task.name"]) for name, tags in found.told} == {
        (INCIDENT, "GET /blocking/{number}"),
        ("asyncio.stall", "GET /blocking/{number}"),
    }
    # A stall in which nobody had a CPU to look at it has no line.
    assert {tags["code.function.name"] for _, tags in found.told if "code.function.name" in tags} == {"blocking"}
    assert found.findings == [("found", "GET /blocking/{number}")]


def test_a_plain_script_is_measured_delivered_and_leaves_nothing(
    stack: ExitStack, receiver: Receiver, tmp_path: Path
) -> None:
    program = started(stack, receiver, tmp_path, "-m", "tests.asyncio_delivery.script", "7")
    shown = []

    def rows() -> set[str]:
        document = program.document()
        shown.append(document)
        return {row["task"] for row in document["ledger"]["rows"]} if document else set()

    names = {f"__main__.{name}" for name in ("crunch", "fetch")}
    wait_for(lambda: names <= rows(), 30, "the script's types in the triage")
    assert shown[-1]["processes"][0]["process_class"] == "job"
    assert program.wait() == 0
    assert program.output == "done\n"
    assert program.agents == []
    told, steps = (
        {name: receiver.total(metric, taskwatt__task__name=f"__main__.{name}") for name in ("crunch", "fetch")}
        for metric in ("taskwatt.cpu.time", "asyncio.task.steps")
    )
    # Two steps of a fetch, each time with two of them for one crunch.
    assert steps["fetch"] == 4 * steps["crunch"]
    assert told["crunch"] == pytest.approx(0.05 * steps["crunch"], rel=0.05)
    assert told["fetch"] == pytest.approx(0.01 * steps["fetch"] / 2, rel=0.1)
    kernel = receiver.total("taskwatt.process.cpu.time", taskwatt__process__class="job")
    unattributed = receiver.total("taskwatt.cpu.time", taskwatt__cpu__activity="unattributed")
    assert receiver.total("taskwatt.cpu.time") == pytest.approx(kernel, rel=0.01)
    assert unattributed <= 0.05 * kernel
