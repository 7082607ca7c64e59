"""Web, worker, scheduler or job: from the command line, else from who runs the loop."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from taskwatt.process_class import evident
from taskwatt.segments import RuntimeDirectory
from taskwatt.segments.reader import Damaged, SegmentReader
from tests.support.brokers import RedisServer
from tests.support.processes import REPOSITORY, clean_environ, stop, wait_for
from tests.support.server import GUNICORN, HYPERCORN, UVICORN, Server

LINES = {
    "uvicorn app:app": "web",
    "/venv/bin/gunicorn -w 4 app:app": "web",
    "/lib/uvicorn/__main__.py app:app": "web",
    "/bin/hypercorn app:app": "web",
    "/bin/daphne app:app": "web",
    "/bin/fastapi run": "web",
    "/bin/sanic shop.server": "web",
    "/bin/flask run": "web",
    "/bin/flask db upgrade": "job",
    "manage.py runserver": "web",
    "manage.py migrate": "job",
    "/lib/celery/__main__.py -A shop worker -B": "worker",
    "celery --app=beat -b redis://here worker": "worker",
    "celery -A worker beat": "scheduler",
    "celery -q -A shop --workdir worker beat -l INFO": "scheduler",
    "celery -A shop inspect ping": "job",
    "import_from_uvicorn.py": "job",
    "worker.py beat": "job",
    "": "job",
}


@pytest.mark.parametrize(("line", "expected"), LINES.items())
def test_the_command_line_tells_what_most_processes_are(line: str, expected: str) -> None:
    assert evident(line.split()) == expected


SERVED = "tests.support.apps.fastapi_app:app"
SERVERS = {
    "uvicorn on asyncio": (*UVICORN, "--loop", "asyncio", SERVED),
    "uvicorn on uvloop": (*UVICORN, "--loop", "uvloop", SERVED),
    "uvicorn with workers": (*UVICORN, "--workers", "2", SERVED),
    "gunicorn sync": (*GUNICORN, "tests.support.apps.wsgi_app"),
    "gunicorn gthread": (*GUNICORN, "-k", "gthread", "tests.support.apps.wsgi_app"),
    "gunicorn with a uvicorn worker": (*GUNICORN, "-k", "uvicorn.workers.UvicornWorker", SERVED),
    "hypercorn": (*HYPERCORN, SERVED),
    "aiohttp's run_app": ("-m", "tests.support.apps.aiohttp_app", "{port}"),
    "aiohttp's runner": ("-m", "tests.support.apps.aiohttp_app", "{port}", "by-hand"),
    "uvicorn.run in a program": ("-c", "import uvicorn; uvicorn.run('" + SERVED + "', port={port})"),
    "uvicorn.Server in a loop": (
        "-c",
        "import asyncio, uvicorn; asyncio.run(uvicorn.Server(uvicorn.Config('" + SERVED + "', port={port})).serve())",
    ),
}


@pytest.mark.parametrize("command", SERVERS.values(), ids=SERVERS.keys())
def test_a_process_that_serves_is_web(serve: Callable[..., Server], tmp_path: Path, command: tuple[str, ...]) -> None:
    server = serve(command)
    server.told()
    assert classes(tmp_path) == {"web"}


def test_the_setting_overrides_what_runs(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(SERVERS["uvicorn on asyncio"], TASKWATT_PROCESS_CLASS="worker")
    server.told()
    assert classes(tmp_path) == {"worker"}


def test_a_script_that_imports_a_server_and_runs_a_loop_is_a_job(tmp_path: Path) -> None:
    code = "import asyncio, uvicorn, gunicorn.workers.base, aiohttp.web; asyncio.run(asyncio.sleep(30))"
    with running([sys.executable, "-c", code], tmp_path):
        assert classes(tmp_path) == {"job"}


@pytest.mark.parametrize(("command", "expected"), [("worker", "worker"), ("beat", "scheduler")])
def test_celery_is_worker_or_scheduler(redis_server: RedisServer, tmp_path: Path, command: str, expected: str) -> None:
    schedule = ["--schedule", str(tmp_path / "schedule")] if command == "beat" else ["--concurrency", "1"]
    app = ["-m", "celery", "-A", "tests.support.apps.beat_app", command, *schedule]
    with running([sys.executable, *app], tmp_path, TEST_BROKER=redis_server.url):
        assert classes(tmp_path) == {expected}


@contextmanager
def running(command: list[str], folder: Path, **environ: str) -> Iterator[None]:
    given = {"TASKWATT_ENABLED": "1", "TASKWATT_DIR": str(folder / "taskwatt")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=clean_environ(**given, **environ), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield
    finally:
        stop(process)


def classes(folder: Path) -> set[str]:
    """What the processes of this directory say they are."""
    found: set[str] = set()

    def told() -> set[str]:
        for agent in RuntimeDirectory(folder / "taskwatt").agents():
            for path in agent.segments():
                with suppress(OSError, Damaged):  # it is just being made, or taken away
                    found.add(SegmentReader(path).process_class)
        return found

    wait_for(told, what="a process that is measured")
    return told()
