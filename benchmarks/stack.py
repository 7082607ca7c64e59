"""Full stack: CPU per no-op task of a whole worker (main and child), variant by variant in turn, cycle after cycle.

On a shared virtual machine the CPU time of the very same work wanders by 10-20 % from one moment to the next, at every
time scale from 4 ms to 1 s (measured). So the variants take turns in short windows of a queue, a ratio compares
windows that lie next to each other, and many of them make a median. What an agent does once a second would fall into
one window or another: its threads are read on their own, over long batches. Workers are started anew every round, since
two processes of one program differ by a percent or two.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.fleet import LOCAL, OFFICIAL, OTLP, PLAIN, Cpu, Parts, Worker
from benchmarks.results import Row
from benchmarks.statistics import interval
from taskwatt import clocks

VARIANTS = (PLAIN, LOCAL, OTLP, OFFICIAL)
BUDGETS = {LOCAL: 1.03, OTLP: 1.03}
CYCLES = 25
WINDOW = 160
BATCH = 1536
"""A multiple of the 512 spans that OpenTelemetry's batch processor sends at once."""
SLICE_S = 18.0
"""What a quiet agent does comes round in this time."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one start of all workers gave, in CPU per task; variants in their order."""

    threads: list[float]
    cycles: list[list[Cpu]]


def measure(parts: Parts, rounds: int, variants: Sequence[str] = VARIANTS) -> list[Row]:
    """Each round starts a worker per variant and takes half a minute."""
    taken: list[Round] = []
    for _ in range(rounds):
        with parts.fleet(variants) as workers:
            taken.append(_round(workers))
    n = rounds * CYCLES
    rows = [Row("stack", f"{variants[0]}, CPU per no-op task", interval(_totals(taken, 0)), "us", n)]
    base = _totals(taken, 0)
    for place, variant in list(enumerate(variants))[1:]:
        pairs = zip(_totals(taken, place), base, strict=True)
        ratio = interval([[mine / plain for mine, plain in zip(*pair, strict=True)] for pair in pairs])
        main = interval([[(cycle[place].main - cycle[0].main) * 1e6 for cycle in one.cycles] for one in taken])
        child = interval([[(cycle[place].child - cycle[0].child) * 1e6 for cycle in one.cycles] for one in taken])
        threads = interval([[(one.threads[place] - one.threads[0]) * 1e6] for one in taken])
        rows += [
            Row("stack", f"{variant} / {variants[0]}", ratio, "x", n, BUDGETS.get(variant)),
            Row("stack", "  beyond it: main process, first thread", main, "us", n),
            Row("stack", "  beyond it: child, first thread", child, "us", n),
            Row("stack", "  beyond it: other threads of both", threads, "us", rounds),
        ]
    return rows


def _totals(taken: Sequence[Round], place: int) -> list[list[float]]:
    """CPU per task (us) of one variant, cycle by cycle."""
    return [
        [(cycle[place].main + cycle[place].child + one.threads[place]) * 1e6 for cycle in one.cycles] for one in taken
    ]


def _round(workers: Sequence[Worker]) -> Round:
    for worker in workers:
        worker.window(BATCH // 3)  # caches, connections, specialised code
    threads = [worker.batch(BATCH).threads for worker in workers]
    cycles: list[list[Cpu]] = []
    for number in range(CYCLES):
        order = [(place + number) % len(workers) for place in range(len(workers))]
        taken = {place: workers[place].window(WINDOW) for place in order}
        cycles.append([taken[place] for place in range(len(workers))])
    return Round(threads, cycles)


def measure_idle(parts: Parts, slices: int, variants: Sequence[str] = VARIANTS) -> list[Row]:
    """CPU of workers that have worked and now wait, all at the same time: share of a core a process beyond plain."""
    shares: dict[tuple[str, str], list[float]] = defaultdict(list)
    with parts.fleet(variants) as workers:
        for worker in workers:
            worker.batch(512)
        time.sleep(66.0)  # until no window of the agent's holds work; OpenTelemetry's batch processor waits for 5 s
        for _ in range(slices):
            before = [_by_process(worker) for worker in workers]
            since = time.monotonic()
            time.sleep(SLICE_S)
            lasted = time.monotonic() - since
            spent = [
                [now - then for now, then in zip(_by_process(worker), was, strict=True)]
                for worker, was in zip(workers, before, strict=True)
            ]
            for worker, used in zip(workers, spent, strict=True):
                for process, now, plain in zip(("main", "child"), used, spent[0], strict=True):
                    shares[worker.variant, process].append((now - plain) / lasted * 100)
    return [
        Row(
            "idle",
            f"{variant} - plain, {process}",
            interval([[value] for value in values]),
            "% of a core",
            len(values),
            0.1 if variant != OFFICIAL else None,
        )
        for (variant, process), values in shares.items()
        if variant != variants[0]
    ]


def _by_process(worker: Worker) -> list[float]:
    return [clocks.process_cpu(pid) or 0.0 for pid in worker.pids]
