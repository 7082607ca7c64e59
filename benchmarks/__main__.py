"""`python -m benchmarks [PART ...]`: the agent's cost as ratios in one run, held against its budgets.

Exits 0 whatever the figures are: on a shared machine a budget may be undecided, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache

from benchmarks import asyncio_cost, asyncio_fleet, asyncio_rest, child, lives, stack, stall_lines, startup
from benchmarks.fleet import Parts
from benchmarks.results import NotMeasured, Row, table

PARTS = {
    "startup": "interpreter start, variable unset and set",
    "child": "a pool child's extra CPU per no-op task",
    "stack": "a whole worker's CPU per no-op task",
    "idle": "CPU of a worker that waits",
    "memory": "memory per process",
    "exit": "a worker's end, receiver hanging",
    "steps": "CPU of an event loop's empty step",
    "echo": "CPU of an echo server",
    "web": "CPU per request of aiohttp, FastAPI and a small server",
    "loop_idle": "CPU of an event loop that waits",
    "loop_memory": "memory with 100,000 live tasks",
    "lines": "stalls that are told without the line that held the loop",
}
ROUNDS = {
    "startup": 100,
    "child": 7,
    "stack": 5,
    "idle": 4,
    "memory": 3,
    "exit": 3,
    "steps": 5,
    "echo": 3,
    "web": 3,
    "loop_idle": 4,
    "loop_memory": 3,
    "lines": 1,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="; ".join(f"{k}: {v}" for k, v in PARTS.items()))
    parser.add_argument("--rounds", type=int, help="of every part that runs: the more, the narrower the intervals")
    parser.add_argument("--variants", help="of `stack`, `idle` or the parts about loops; by comma, the base first")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    asked = parser.parse_args()
    unknown = set(asked.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    rows: list[Row | NotMeasured] = []
    chosen = [part for part in PARTS if part in asked.parts or not asked.parts]
    names = asked.variants.split(",") if asked.variants else ()
    variants, watchers = names or stack.VARIANTS, names or asyncio_fleet.VARIANTS
    with ExitStack() as running:
        parts = cache(lambda: running.enter_context(Parts()))
        measures: dict[str, Callable[[int], Sequence[Row | NotMeasured]]] = {
            "startup": startup.measure,
            "child": child.measure,
            "stack": lambda rounds: stack.measure(parts(), rounds, variants),
            "idle": lambda rounds: stack.measure_idle(parts(), rounds, variants),
            "memory": lambda rounds: lives.measure_memory(parts(), rounds),
            "exit": lambda rounds: lives.measure_exit(parts(), rounds),
            "steps": lambda rounds: asyncio_cost.measure("steps", [asyncio_cost.STEPS], rounds, watchers),
            "echo": lambda rounds: asyncio_cost.measure("echo", [asyncio_cost.ECHO], rounds, watchers),
            "web": lambda rounds: asyncio_cost.measure("web", asyncio_cost.WEB, rounds, watchers),
            "loop_idle": lambda rounds: asyncio_rest.measure_idle(rounds, watchers),
            "loop_memory": lambda rounds: asyncio_rest.measure_memory(rounds, watchers),
            "lines": stall_lines.measure,
        }
        for part in chosen:
            print(f"{part}: {PARTS[part]} ...", file=sys.stderr, flush=True)
            rows += measures[part](asked.rounds or ROUNDS[part])
    if asked.json:
        print(json.dumps({"python": platform.python_version(), "rows": [row.as_dict() for row in rows]}, indent=1))
    else:
        print(f"Python {platform.python_version()}; official: opentelemetry-instrumentation-celery over OTLP/HTTP\n")
        print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
