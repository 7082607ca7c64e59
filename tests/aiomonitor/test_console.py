"""aiomonitor and taskwatt in one process: the commands, the monitor that a setting starts, and no trace of either."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import pytest

from tests.support.processes import REPOSITORY, clean_environ, free_port, stop, wait_for

APP = str(Path(__file__).with_name("app.py"))
OPENED = re.compile(r"opens aiomonitor at telnet://127\.0\.0\.1:(\d+) and http://127\.0\.0\.1:(\d+)")
IAC = b"\xff"
HELLO = (
    (
        IAC
        + b"\xfb\x1f"
        + IAC
        + b"\xfa\x1f\x00\xa0\x00\x32"
        + IAC
        + b"\xf0"
        + IAC
        + b"\xfb\x18"
        + IAC
        + b"\xfa\x18\x00dumb"
    )
    + IAC
    + b"\xf0"
)
"""A telnet client's answers: its window has 160 columns, its terminal is dumb."""
PROMPT = b"monitor >>> "


class Client:
    """A telnet session with the monitor."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._socket.sendall(HELLO)
        self._until(PROMPT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, command: str, answer: str) -> str:
        """What the console prints until `answer` is in it."""
        self._socket.sendall(command.encode() + b"\r\n")
        return self._until(answer.encode())

    def _until(self, text: bytes) -> str:
        got = b""
        while text not in got:
            more = self._socket.recv(65536)
            assert more, got
            got += more
        return re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", got).decode(errors="replace")


@contextmanager
def running(folder: Path, **environ: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    given = {"TASKWATT_ENABLED": "1", "TASKWATT_DIR": str(folder / "taskwatt"), "TASKWATT_LOG_LEVEL": "INFO"}
    logged = "import logging, runpy, sys; logging.basicConfig(level='INFO'); sys.argv = sys.argv[1:]; "
    command = [sys.executable, "-c", logged + "runpy.run_path(sys.argv[0], run_name='__main__')", APP, "60"]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=clean_environ(**given, **environ), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process, log
    finally:
        stop(process)


def test_a_setting_opens_a_monitor_whose_commands_know_this_process(tmp_path: Path) -> None:
    with running(tmp_path, TASKWATT_AIOMONITOR="1") as (process, log):
        wait_for(lambda: OPENED.search(log.read_text()) or process.poll() is not None, 60, "the monitor")
        opened = OPENED.search(log.read_text())
        assert opened, log.read_text()
        time.sleep(0.1)
        wait_for(lambda: _listens(int(opened[1])), 60, "its port")
        with Client(int(opened[1])) as client:
            wait_for(lambda: "by activity" in client.ask("taskwatt cpu", PROMPT.decode()), 60, "a window")
            assert "MainThread" in client.ask("taskwatt lag", "MainThread")
            assert "__main__.work" in client.ask("taskwatt tasks", "__main__.work")
            assert "__main__.work" in client.ask("taskwatt cpu", "__main__.work")
            assert "No incident is open." in client.ask("taskwatt incidents", "No incident")
            assert "work" in client.ask("ps", "work")
            assert "disabled" in client.ask("console", "disabled")


def test_two_processes_each_have_a_monitor_of_their_own(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    ports: list[str] = []
    with ExitStack() as both:
        for folder in folders:
            _, log = both.enter_context(running(folder, TASKWATT_AIOMONITOR="1"))
            wait_for(lambda log=log: OPENED.search(log.read_text()), 60, "the monitor")  # type: ignore[misc]
            ports.append(OPENED.findall(log.read_text())[0][0])
            wait_for(lambda: _listens(int(ports[-1])), 60, "its port")
    assert len(set(ports)) == 2


def test_without_the_setting_nothing_is_opened(tmp_path: Path) -> None:
    with running(tmp_path) as (_, log):
        wait_for(lambda: list((tmp_path / "taskwatt").rglob("latest.json")), 60, "the agent")
        assert "aiomonitor" not in log.read_text()


def test_the_commands_come_with_the_agent_and_go_with_it() -> None:
    code = """
    import aiomonitor, taskwatt
    before = set(aiomonitor.monitor_cli.commands)
    taskwatt.instrument()
    print(set(aiomonitor.monitor_cli.commands) - before)
    taskwatt.uninstrument()
    print(set(aiomonitor.monitor_cli.commands) == before)
    """
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(line[4:] for line in code.splitlines())],
        env=clean_environ(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split("\n")[:2] == ["{'taskwatt'}", "True"]


@pytest.mark.parametrize("enabled", ["0", "1"])
def test_a_monitor_of_the_users_own_that_hooks_the_task_factory_works_as_without_us(
    tmp_path: Path, enabled: str
) -> None:
    code = """
import asyncio, sys, aiomonitor

async def inner(number):
    await asyncio.sleep(0)
    return number * number

async def main():
    loop = asyncio.get_running_loop()
    port, web = map(int, sys.argv[1:])
    with aiomonitor.start_monitor(loop, port=port, webui_port=web, console_enabled=False, hook_task_factory=True):
        print(await asyncio.gather(*(asyncio.create_task(inner(n)) for n in range(7))))
    print(loop.get_task_factory())

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(free_port()), str(free_port())],
        env=clean_environ(TASKWATT_ENABLED=enabled, TASKWATT_DIR=str(tmp_path)),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["[0, 1, 4, 9, 16, 25, 36]", "None"], done.stderr


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
