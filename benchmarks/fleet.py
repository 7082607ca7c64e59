"""One real worker per variant, side by side on one Redis server, each with a database of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
from redis import Redis

from taskwatt import clocks
from tests.support.brokers import RedisServer
from tests.support.processes import REPOSITORY, clean_environ, stop, wait_for

PLAIN, SDK, LOCAL, OTLP, OFFICIAL, BLACK_HOLE = (
    "plain", "sdk", "taskwatt", "taskwatt+otlp", "official+otlp", "taskwatt+blackhole",
)  # fmt: skip
SETTLE_S = 1.3
"""Longer than the agent's tick: what a batch of tasks causes afterwards (folding, export) is measured with it."""
EDGE = 16
"""Messages at either end of a queue that are left out."""
QUEUE = "celery"


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds of a worker: of the first threads of its main process and of its child, and of all other threads."""

    main: float
    child: float
    threads: float
    """The agent's or an exporter's; a plain worker has none."""

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.main - other.main, self.child - other.child, self.threads - other.threads)

    def __truediv__(self, by: float) -> Cpu:
        return Cpu(self.main / by, self.child / by, self.threads / by)


def cpu_of(main: int, child: int) -> Cpu:
    """Read from outside. The process clocks are exact at any moment; other threads sleep when they are read (Linux)."""
    others = {pid: other_threads(pid) for pid in (main, child)}
    first = {pid: (clocks.process_cpu(pid) or 0.0) - others[pid] for pid in (main, child)}
    return Cpu(first[main], first[child], sum(others.values()))


def other_threads(pid: int) -> float:
    """CPU seconds of all threads of a process but its first; of those that live."""
    spent = 0.0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        if thread.name != str(pid):
            with suppress(OSError):  # it has just ended
                spent += int((thread / "schedstat").read_text().split()[0]) / 1e9
    return spent


def variant_environ(variant: str, endpoint: str, hole: str, folder: Path) -> dict[str, str]:
    """What a user of this variant sets; hashes are fixed so that two processes of one program are alike."""
    given = {"PYTHONHASHSEED": "0", "BENCH_VARIANT": variant.split("+", 1)[0]}
    if variant.startswith("taskwatt"):
        given |= {"TASKWATT_ENABLED": "1", "TASKWATT_DIR": str(folder)}
    if variant.endswith("+otlp"):
        given["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
    if variant == BLACK_HOLE:
        given["OTEL_EXPORTER_OTLP_ENDPOINT"] = hole
    return clean_environ(**given)


class Worker:
    """A `celery worker` with one pool process, and its queue."""

    def __init__(self, variant: str, parts: Parts, database: int) -> None:
        self.variant = variant
        self.folder = parts.folder / f"{variant}-{database}"
        self.folder.mkdir(exist_ok=True)
        self.redis = Redis(port=parts.redis.port, db=database)
        broker = f"redis://127.0.0.1:{parts.redis.port}/{database}"
        self.environ = variant_environ(variant, parts.endpoint, parts.hole, self.folder / "taskwatt")
        self.environ["BENCH_BROKER"] = broker
        self._log = self.folder / "worker.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._template: str | None = None
        self._known: tuple[int, ...] = ()

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "benchmarks.app",
            "worker",
            "--concurrency",
            "1",
            "-l",
            "ERROR",
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=REPOSITORY, env=self.environ, stdout=log, stderr=log)

    def wait_until_ready(self) -> None:
        """Ready when it has run one task."""
        self.fill(1)
        self.wait_until_done()
        assert len(self.pids) == 2, self._log.read_text()

    def stop(self) -> float:
        """Seconds from SIGTERM to the end."""
        process, self._process = self._process, None
        if process is None:
            return 0.0
        since = time.monotonic()
        stop(process)
        return time.monotonic() - since

    @property
    def pids(self) -> list[int]:
        assert self._process is not None
        main = psutil.Process(self._process.pid)
        return [main.pid, *(child.pid for child in main.children())]

    def cpu(self) -> Cpu:
        if not self._known:
            self._known = tuple(self.pids)
        main, child = self._known
        return cpu_of(main, child)

    def fill(self, tasks: int) -> None:
        """Put so many messages into the queue at once, each as this variant's publisher would write it."""
        template = self._template or self._publish_one()
        message = json.loads(template)
        task_id, tag = message["headers"]["id"], message["properties"]["delivery_tag"]
        self.redis.lpush(
            QUEUE, *(template.replace(task_id, str(uuid.uuid4())).replace(tag, str(uuid.uuid4())) for _ in range(tasks))
        )

    def wait_until_done(self, seconds: float = 60.0) -> None:
        def done() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text()
            return not self.redis.llen(QUEUE) and not self.redis.hlen("unacked")

        wait_for(done, seconds, f"the end of the work of {self.variant}")

    def batch(self, tasks: int) -> Cpu:
        """CPU per task of one pre-filled queue, from its first message to the agent's (or exporter's) last word."""
        before = self.cpu()
        self.fill(tasks)
        self.wait_until_done()
        time.sleep(SETTLE_S)
        return (self.cpu() - before) / tasks

    def window(self, tasks: int) -> Cpu:
        """CPU per task between two depths of one pre-filled queue: the worker is at full speed at both."""
        self.fill(tasks)
        first, before = self._at_depth(tasks - EDGE)
        last, after = self._at_depth(EDGE)
        self.wait_until_done()
        return (after - before) / (first - last)

    def _at_depth(self, most: int) -> tuple[int, Cpu]:
        until = time.monotonic() + 60.0
        while (depth := self.redis.llen(QUEUE)) > most:
            assert time.monotonic() < until, self._log.read_text()
            time.sleep(0.002)
        return depth, self.cpu()

    def _publish_one(self) -> str:
        """The message that this variant's publisher sends, taken out of the queue of a database that nobody reads."""
        spare = Redis(port=self.redis.connection_pool.connection_kwargs["port"], db=15)
        spare.delete(QUEUE)
        broker = self.environ["BENCH_BROKER"].rsplit("/", 1)[0] + "/15"
        command = [sys.executable, "-m", "benchmarks.app"]
        subprocess.run(command, cwd=REPOSITORY, env=self.environ | {"BENCH_BROKER": broker}, check=True, timeout=60)
        found = spare.rpop(QUEUE)
        spare.close()
        assert isinstance(found, bytes)
        self._template = found.decode()
        return self._template


class Parts:
    """What the workers share: Redis, a receiver, a black hole, a folder in shared memory (the agent's default)."""

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        temporary = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="taskwatt-bench-", dir=memory))
        self.folder = Path(temporary)
        self.redis = RedisServer(self.folder)
        self.redis.start()
        self._stack.callback(self.redis.stop)
        self._stack.callback(self.redis.client.close)
        self.endpoint = self._stack.enter_context(sink())
        self.hole = self._stack.enter_context(sink("silent"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def fleet(self, variants: Sequence[str]) -> Iterator[list[Worker]]:
        """A started worker for each variant (a variant may be named twice)."""
        workers = [Worker(variant, self, database) for database, variant in enumerate(variants)]
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.wait_until_ready()
            yield workers
        finally:
            for worker in workers:
                worker.stop()
                worker.redis.close()


@contextmanager
def sink(*mode: str) -> Iterator[str]:
    """The endpoint of a receiver process."""
    command = [sys.executable, "-m", "benchmarks.sink", *mode]
    process = subprocess.Popen(command, cwd=REPOSITORY, env=clean_environ(), stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        stop(process)
        process.stdout.close()
