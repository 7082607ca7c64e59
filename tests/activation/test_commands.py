"""The command `taskwatt`: choosing a subcommand, `run`, and `doctor`."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from .conftest import Environment, clean_environ


def taskwatt(environment: Environment, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(environment.root / "bin" / "taskwatt"), *words]
    environ = clean_environ() | variables
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, cwd=environment.root)


def test_run_replaces_itself_with_the_command_switched_on(environment: Environment) -> None:
    code = "import os, sys; print(os.environ['TASKWATT_ENABLED'], 'taskwatt._imports' in sys.modules); sys.exit(23)"
    done = taskwatt(environment, "run", "--", environment.python, "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (23, "1 True\n", "")


def test_run_without_dashes_takes_the_options_as_the_commands_own(environment: Environment) -> None:
    done = taskwatt(environment, "run", "echo", "-n", "--help")
    assert (done.returncode, done.stdout) == (0, "--help")


def test_run_says_when_the_command_is_not_there(environment: Environment) -> None:
    done = taskwatt(environment, "run", "--", "no-such-command-here")
    assert (done.returncode, done.stderr) == (127, "taskwatt run: no-such-command-here: command not found\n")


@pytest.mark.parametrize("words", [(), ("unknown",), ("run",), ("doctor", "--unknown")])
def test_wrong_usage_is_exit_code_2(environment: Environment, words: tuple[str, ...]) -> None:
    assert taskwatt(environment, *words).returncode == 2


def test_a_healthy_installation_is_exit_code_0(environment: Environment, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        done = taskwatt(
            environment,
            "doctor",
            TASKWATT_ENABLED="1",
            TASKWATT_DIR=str(tmp_path),
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        )
    assert (done.returncode, done.stderr) == (0, "")
    for expected in ("the agent is switched on", "taskwatt_autostart.pth", f"directory {tmp_path}", "can be reached"):
        assert expected in done.stdout
    found = [line.split() for line in done.stdout.splitlines() if " integration " in line]
    assert {(words[0], words[2], words[4]) for words in found} == {
        ("ok", "taskwatt.export.span_cpu", "opentelemetry.sdk.trace"),
        ("ok", "taskwatt_aiomonitor", "aiomonitor"),
        ("ok", "taskwatt_asyncio", "asyncio"),
        ("ok", "taskwatt_celery", "celery"),
        ("ok", "taskwatt_web.aiohttp_routes", "aiohttp"),
        ("ok", "taskwatt_web.django_routes", "Django"),
        ("ok", "taskwatt_web.starlette_routes", "starlette"),
        ("ok", "taskwatt_web.uvicorn_exit", "uvicorn"),
        ("ok", "taskwatt_web.wsgi", "gunicorn"),
    }
    assert "WRONG" not in done.stdout


def test_doctor_says_what_an_integration_waits_for(environment: Environment, tmp_path: Path) -> None:
    metadata = tmp_path / "their_integration-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-integration\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[taskwatt.integrations]\nhere.below = first\nnowhere_to_be_found.below = second\n"
    )
    (tmp_path / "here.py").write_text("raise RuntimeError('doctor imports nothing of the user')\n")
    done = taskwatt(environment, "doctor", TASKWATT_DIR=str(tmp_path / "taskwatt"), PYTHONPATH=str(tmp_path))
    assert "ok    integration first for here.below\n" in done.stdout
    assert "      integration second waits for nowhere_to_be_found, which is not installed here\n" in done.stdout


def test_doctor_names_each_thing_that_is_wrong_and_exits_with_1(environment: Environment, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    done = taskwatt(
        environment,
        "doctor",
        TASKWATT_DIR=str(tmp_path),
        TASKWATT_PROCESS_CLASS="cook",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{closed}",
    )
    wrong = [line for line in done.stdout.splitlines() if line.startswith("WRONG")]
    assert done.returncode == 1
    assert [
        word in line for word, line in zip(("'cook'", "open to others", "cannot be reached"), wrong, strict=True)
    ] == [
        True,
        True,
        True,
    ]
