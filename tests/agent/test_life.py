"""Processes that measure themselves: from their first loop to their end, however they start and end."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.support.processes import free_port, wait_for
from tests.support.program import Program
from tests.support.receiver import Receiver

BIN = Path(sys.executable).parent

Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a program, given as its source or as its arguments; it is stopped when the test ends."""
    with ExitStack() as running:

        def start(*arguments: str, source: str = "", **environ: str) -> Program:
            if source:
                path = tmp_path / "program.py"
                path.write_text(textwrap.dedent(source))
                arguments = (*arguments, str(path))
            return running.enter_context(Program(tmp_path, *arguments, **environ))

        yield start


@pytest.mark.parametrize("seconds", ["0", "0.9", "1.05", "1.2", "1.5"])
def test_a_script_may_end_before_its_agent_starts_or_while_it_does(start: Start, seconds: str) -> None:
    """It says nothing, keeps its exit code and leaves nothing behind."""
    program = start(
        source=f"""
        import asyncio, sys
        asyncio.run(asyncio.sleep({seconds}))
        sys.exit(7)
        """
    )
    assert program.wait() == 7
    assert (program.output, program.agents) == ("", [])


def test_an_agent_that_is_due_while_the_interpreter_ends_does_not_start(start: Start) -> None:
    """From then on no executor takes work and no thread can be made: starting would fail, and say so."""
    program = start(
        source="""
        import threading, time
        threading._register_atexit(lambda: time.sleep(1.5))
        import asyncio, concurrent.futures.thread  # shuts down before that
        asyncio.run(asyncio.sleep(0))
        """
    )
    assert program.wait() == 0
    assert (program.output, program.agents) == ("", [])


def test_a_script_that_is_run_by_the_command_is_measured(start: Start, receiver: Receiver) -> None:
    program = start(
        "-m",
        "taskwatt",
        "run",
        "--",
        sys.executable,
        source="""
        import asyncio
        async def wait():
            for _ in range(400):
                await asyncio.sleep(0.01)
        asyncio.run(wait())
        """,
        TASKWATT_ENABLED="0",
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
    )
    assert program.wait() == 0
    assert receiver.total("asyncio.task.steps", taskwatt__task__name="__main__.wait") == 401
    assert (program.output, program.agents) == ("", [])


def test_a_receiver_that_hangs_holds_up_no_exit(start: Start, receiver: Receiver) -> None:
    receiver.hanging_s = 60.0
    program = start(
        source="import asyncio; asyncio.run(asyncio.sleep(4))", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint
    )
    wait_for(lambda: program.document(), what="the agent")
    assert program.wait(30) == 0  # the exporter's own patience is 10 s a try
    receiver.hanging_s = 0.0


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_measure_themselves(start: Start, receiver: Receiver, method: str) -> None:
    program = start(
        source=f"""
        import asyncio, multiprocessing
        async def wait():
            for _ in range(300):
                await asyncio.sleep(0.01)
        def work():
            asyncio.run(wait())
        if __name__ == "__main__":
            context = multiprocessing.get_context("{method}")
            asyncio.run(asyncio.sleep(0))
            children = [context.Process(target=work) for _ in range(2)]
            for child in children:
                child.start()
            for child in children:
                child.join()
            print([child.exitcode for child in children])
        """,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
    )
    assert program.wait() == 0
    name = "__mp_main__.wait" if method == "spawn" else "__main__.wait"
    if method == "forkserver":
        name = "__mp_main__.wait"
    steps = {
        (metric.resource["service.instance.id"], point.value)
        for metric in receiver.everything("asyncio.task.steps")
        for point in metric.points
        if point.attributes["taskwatt.task.name"] == name
    }
    assert (len(steps), {value for _, value in steps}) == (2, {301.0})
    assert (program.output, program.agents) == ("[0, 0]\n", [])


APP = """
import asyncio

try:
    asyncio.get_running_loop()
except RuntimeError:
    asyncio.run(asyncio.sleep(0))

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})
"""


@pytest.fixture
def asgi(tmp_path: Path) -> str:
    """The folder of a module `served` with an application that runs a loop while it is imported."""
    (tmp_path / "served.py").write_text(APP)
    return str(tmp_path)


def classes(program: Program) -> list[str]:
    return [one["process_class"] for one in program.document().get("processes", ())]


def test_no_thread_runs_in_gunicorn_s_master_and_each_worker_measures_itself(start: Start, asgi: str) -> None:
    port = free_port()
    program = start(
        str(BIN / "gunicorn"),
        *("--chdir", asgi, "--bind", f"127.0.0.1:{port}", "--workers", "2", "--preload", "--no-control-socket"),
        *("--worker-class", "uvicorn.workers.UvicornWorker", "--log-level", "warning", "served:app"),
        PYTHONWARNINGS="ignore",
    )
    program.serves(f"http://127.0.0.1:{port}/")
    wait_for(lambda: classes(program) == ["web", "web"], 60, "two workers in the triage")
    assert psutil.Process(program.process.pid).num_threads() == 1
    assert str(program.process.pid) not in "".join(path.name for path in program.agents)
    assert program.end() == 0
    assert (program.output, program.agents) == ("", [])


@pytest.mark.parametrize("option", [("--workers", "2"), ("--reload",)])
def test_uvicorn_s_own_processes_measure_themselves(start: Start, asgi: str, option: tuple[str, ...]) -> None:
    port = free_port()
    program = start(
        *("-m", "uvicorn", "--app-dir", asgi, "--port", str(port), "--log-level", "warning", *option, "served:app")
    )
    program.serves(f"http://127.0.0.1:{port}/")
    serving = ["web"] * (2 if option == ("--workers", "2") else 1)
    wait_for(lambda: classes(program) == serving, 60, "the workers in the triage")
    assert program.end() in (0, -signal.SIGTERM)
    assert program.agents == []


def test_a_process_that_is_forked_from_a_loop_goes_on_unmeasured(start: Start) -> None:
    program = start(
        source="""
        import asyncio, os
        async def main():
            await asyncio.sleep(3)
            pid = os.fork()
            if not pid:
                os._exit(7)
            _, status = os.waitpid(pid, 0)
            print(os.waitstatus_to_exitcode(status))
        asyncio.run(main())
        """,
        PYTHONWARNINGS="ignore",
    )
    assert program.wait() == 0
    assert (program.output, program.agents) == ("7\n", [])


def test_loops_of_several_threads_start_one_agent(start: Start) -> None:
    program = start(
        source="""
        import asyncio, threading
        threads = [threading.Thread(target=asyncio.run, args=(asyncio.sleep(4),)) for _ in range(20)]
        for thread in threads:
            thread.start()
        import time
        time.sleep(3)
        print(sorted(one.name for one in threading.enumerate() if one.name in ("taskwatt", "taskwatt-start")))
        """
    )
    assert program.wait() == 0
    assert program.agents == []
    assert program.output == "['taskwatt']\n"


def test_a_process_in_which_no_loop_runs_is_left_alone(start: Start, tmp_path: Path) -> None:
    program = start(source="import asyncio, time; time.sleep(1.5)")
    assert program.wait() == 0
    assert (program.output, os.path.exists(tmp_path / "taskwatt")) == ("", False)
