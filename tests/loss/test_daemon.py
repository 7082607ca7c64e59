"""A worker that puts itself into the background: it forks and executes itself anew, and is watched all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from celery import Celery

from tests.loss.books import Told, Truth, nothing_is_lost
from tests.support.brokers import RedisServer
from tests.support.processes import REPOSITORY, clean_environ, wait_for


def test_nothing_is_lost_of_a_detached_worker(
    redis_server: RedisServer, truth: Truth, told: Told, tmp_path: Path
) -> None:
    pid_file, log = tmp_path / "worker.pid", tmp_path / "worker.log"
    environ = clean_environ(
        TASKWATT_ENABLED="1",
        TASKWATT_DIR=str(tmp_path / "taskwatt"),
        TEST_BROKER=redis_server.url,
        TEST_TRUTH=str(truth.path),
        OTEL_EXPORTER_OTLP_ENDPOINT=told.receiver.endpoint,
        OTEL_METRIC_EXPORT_INTERVAL="1000",
    )
    options = ["--concurrency", "2", "--detach", "--pidfile", str(pid_file), "--logfile", str(log), "-l", "INFO"]
    command = [sys.executable, "-m", "celery", "-A", "tests.loss.app", "worker", *options]
    subprocess.run(command, cwd=REPOSITORY, env=environ, check=True, stdin=subprocess.DEVNULL)
    try:
        with Celery(broker=redis_server.url) as app:
            for _ in range(43):
                app.send_task("tests.finish")
        truth.wait_for_finished(43)
    finally:
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not pid_file.exists(), 30, "the end of the worker")
    nothing_is_lost(truth, told, 43)
