"""Child side: what a pool child spends more on each no-op task, with the hook on and off in the same process.

A process forks a child as the worker does; the child runs Celery's own `fast_trace_task` on messages as the worker
would hand them over, in blocks of 512 tasks, hooked and not hooked in turn. Its process clock includes the threads of
an exporter, and a block ends when what it made was exported. What surrounds a task in a worker (pipe, semaphores) is
not there, so caches are warmer than in life: the full-stack figure has that.
"""

from __future__ import annotations

import inspect
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

from benchmarks.fleet import OFFICIAL, OTLP, sink, variant_environ
from benchmarks.results import Row
from benchmarks.statistics import combined, interval
from tests.support.processes import REPOSITORY

BLOCK = 512
PAIRS = 24
BUDGET_US, SPAN_BUDGET_US, BUDGET_OF_OFFICIAL = 10.0, 15.0, 0.1
NO_SPAN = "taskwatt, nothing sampled"


def measure(rounds: int) -> list[Row]:
    """`rounds` processes of each kind, in turn."""
    extra: dict[str, list[list[float]]] = defaultdict(list)
    bases: list[list[float]] = []
    with tempfile.TemporaryDirectory(prefix="taskwatt-bench-") as temporary, sink() as endpoint:
        for number in range(rounds):
            for variant in (NO_SPAN, OTLP, OFFICIAL):
                environ = variant_environ(OTLP if variant == NO_SPAN else variant, endpoint, "", Path(temporary))
                if variant == NO_SPAN:
                    environ["OTEL_TRACES_SAMPLER"] = "always_off"
                environ["PYTHONHASHSEED"] = str(number)
                command = [sys.executable, "-m", "benchmarks.child"]
                done = subprocess.run(
                    command, cwd=REPOSITORY, env=environ, stdout=subprocess.PIPE, check=True, timeout=120
                )
                base, extras = json.loads(done.stdout)
                bases.append([base])
                extra[variant].append(extras)
    return [
        Row("child", "plain, CPU per no-op task", interval(bases), "us", len(bases)),
        Row("child", f"{NO_SPAN} - plain", interval(extra[NO_SPAN]), "us", rounds, BUDGET_US),
        Row("child", f"{OTLP} - plain", interval(extra[OTLP]), "us", rounds, SPAN_BUDGET_US),
        Row("child", f"{OFFICIAL} - plain", interval(extra[OFFICIAL]), "us", rounds),
        Row(
            "child",
            f"({OTLP} - plain) / ({OFFICIAL} - plain)",
            combined(lambda medians: medians[0] / medians[1], extra[OTLP], extra[OFFICIAL]),
            "x",
            rounds,
            BUDGET_OF_OFFICIAL,
        ),
    ]


def _in_parent() -> None:
    """Become what a worker's main process is, fork a child as it does, and keep the child's ring empty."""
    from celery import signals

    from benchmarks.app import noop

    signals.worker_init.send(sender=None)
    job = pickle.dumps(_job(noop))
    asks, answers = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            print(json.dumps(_in_child(job, lambda: _ask(asks[1], answers[0]))), flush=True)
        finally:
            os._exit(0)
    os.close(asks[1])
    readers: list[Any] = []
    while os.read(asks[0], 1):
        _drain(readers)
        os.write(answers[1], b".")
    os.waitpid(pid, 0)


def _job(task: Any) -> tuple[Any, ...]:
    """The arguments with which a worker hands a message of `task` to its pool."""
    from celery.worker.request import Request

    task.apply_async()
    with task.app.connection_for_read() as connection:
        message = connection.SimpleQueue("celery").get(timeout=5)
    request = Request(message, app=task.app, task=task, hostname="bench@localhost")
    return request.type, request.task_id, request.request_dict, request.body, request.content_type, "utf-8"


def _ask(question: int, answer: int) -> None:
    os.write(question, b".")
    os.read(answer, 1)


def _drain(readers: list[Any]) -> None:
    """What the agent does with a child's ring, at once and without the rest of a tick."""
    from taskwatt.runtime import runtime
    from taskwatt.segments import AgentDirectory, SegmentReader

    if runtime.segment is None:
        return
    if not readers:
        paths = AgentDirectory(runtime.segment.path.parent).segments()
        readers += [SegmentReader(path) for path in paths if path != runtime.segment.path]
    for reader in readers:
        reader.drain()
        reader.commit()


def _in_child(job: bytes, empty_ring: Callable[[], None]) -> tuple[float, list[float]]:
    """(CPU of a plain no-op in us, what the hooks add to it in us, one figure a pair of blocks)."""
    from celery import signals
    from celery.app import trace

    from benchmarks.app import app, noop

    trace.setup_worker_optimizations(app)
    signals.worker_process_init.send(sender=None)
    hooked = trace.fast_trace_task, trace.build_tracer(noop.name, noop, app=app)
    plain = inspect.unwrap(hooked[0]), inspect.unwrap(trace.build_tracer)(noop.name, noop, app=app)
    hooks = _Hooks()
    bases: list[float] = []
    extras: list[float] = []
    for number in range(PAIRS + 2):
        taken: dict[bool, float] = {}
        for hook in (True, False) if number % 2 else (False, True):
            jobs = [pickle.loads(job) for _ in range(BLOCK)]
            run, noop.__trace__ = hooked if hook else plain
            hooks.put_in() if hook else hooks.take_out()
            since = process_time()
            for one in jobs:
                run(*one)
            if hook:
                hooks.flush()
            taken[hook] = (process_time() - since) / BLOCK * 1e6
            empty_ring()
        if number > 1:  # the first warm the caches
            bases.append(taken[False])
            extras.append(taken[True] - taken[False])
    return median(bases), extras


class _Hooks:
    """What a variant hooks into besides the traced function: receivers, encoders, the garbage collector's report."""

    def __init__(self) -> None:
        from celery import signals
        from opentelemetry import trace

        self._signals = [signals.task_prerun, signals.task_postrun]
        self._receivers = [list(signal.receivers) for signal in self._signals]
        self._taskwatt = bool(os.environ.get("TASKWATT_ENABLED"))
        self.flush = getattr(trace.get_tracer_provider(), "force_flush", lambda: None)

    def put_in(self) -> None:
        for signal, receivers in zip(self._signals, self._receivers, strict=True):
            signal.receivers[:] = receivers
        if self._taskwatt:
            from taskwatt.meter import watch_collections
            from taskwatt_celery import serialization

            serialization.install()
            serialization.refresh()
            watch_collections()

    def take_out(self) -> None:
        for signal in self._signals:
            signal.receivers[:] = []
        if self._taskwatt:
            from taskwatt.meter import ignore_collections
            from taskwatt_celery import serialization

            serialization.uninstall()
            ignore_collections()


if __name__ == "__main__":
    _in_parent()
