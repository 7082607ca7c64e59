"""Whole lives of workers: the memory each process holds, and how long the worker takes to end."""

from __future__ import annotations

from collections import defaultdict

import psutil

from benchmarks.fleet import BLACK_HOLE, LOCAL, OFFICIAL, OTLP, PLAIN, SDK, Parts
from benchmarks.results import Row
from benchmarks.statistics import interval

MEMORY_BUDGET_MB = 5.0
EXIT_BUDGET_S = 2.0
TASKS = 512


def measure_memory(parts: Parts, rounds: int) -> list[Row]:
    """Memory of each process, shared pages split among their users (PSS), beyond a worker that imported the SDK."""
    variants = (SDK, PLAIN, LOCAL, OTLP, OFFICIAL)
    extra: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(rounds):
        with parts.fleet(variants) as workers:
            for worker in workers:
                worker.batch(TASKS)
            held = [[psutil.Process(pid).memory_full_info().pss / 1e6 for pid in worker.pids] for worker in workers]
            for worker, (main, child) in zip(workers, held, strict=True):
                extra[worker.variant, "main"].append(main - held[0][0])
                extra[worker.variant, "child"].append(child - held[0][1])
    return [
        Row(
            "memory",
            f"{variant} - (plain + SDK imported), {process}",
            interval([[value] for value in values]),
            "MB",
            rounds,
            MEMORY_BUDGET_MB if variant in (LOCAL, OTLP) else None,
        )
        for (variant, process), values in extra.items()
        if variant != variants[0]
    ]


def measure_exit(parts: Parts, rounds: int) -> list[Row]:
    """From SIGTERM to the end of a worker that has spans to send: with a receiver that never answers, beyond plain."""
    variants = (PLAIN, OTLP, BLACK_HOLE)
    delays: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        with parts.fleet(variants) as workers:
            for worker in workers:
                worker.batch(TASKS)
            seconds = [worker.stop() for worker in workers]
            for worker, lasted in zip(workers, seconds, strict=True):
                delays[worker.variant].append(lasted - seconds[0])
    return [
        Row("exit", f"{variant} - plain", interval([[value] for value in delays[variant]]), "s", rounds, EXIT_BUDGET_S)
        for variant in variants[1:]
    ]
