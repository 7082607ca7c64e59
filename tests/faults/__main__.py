"""Run scenarios, print what was found, and end with 1 when something failed."""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.faults import table
from tests.faults.case import TUNING_SEEDS, Scenario
from tests.faults.engine import Run, run
from tests.faults.scenarios import SCENARIOS
from tests.faults.score import CROWDED_CPUS, Judgement, Result, score

STORM_SEEDS = 5
"""By default; the other scenarios get one. All in all under half an hour."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and end what was started
    results: list[Result] = []
    print(table.HEADER, flush=True)
    for scenario, seed in _plan(options):
        for result in _results(scenario, seed, options.tries):
            results.append(result)
            print(table.row(result), flush=True)
    print(f"\n{table.summary(results)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(table.as_json(results), indent=1) + "\n")
    return int(any(not one.passed and not one.skipped for one in results))


def _results(scenario: Scenario, seed: int, tries: int) -> Iterator[Result]:
    reason = scenario.unavailable()
    if reason:
        yield Result(scenario.name, seed, Judgement(0, 0, 0, (), None), skipped=reason)
        return
    twin = _undisturbed(scenario, seed, twin=True, tries=tries) if scenario.has_twin else None
    yield score(_undisturbed(scenario, seed, twin=False, tries=tries), twin)
    if twin is not None:
        yield score(twin, None)


def _undisturbed(scenario: Scenario, seed: int, twin: bool, tries: int) -> Run:
    """A run in which strangers left the machine alone; the last of `tries` when they never do.

    Whether to try again depends on what the kernel says of strangers, never on what the agent said.
    """
    for _ in range(tries - 1):
        found = run(scenario.case(seed, twin))
        if found.kernel.crowded() < CROWDED_CPUS:
            return found
        print(f"{found.case.name:<28}{seed:>6}  again: strangers used {found.kernel.crowded():.1f} CPUs", flush=True)
    return run(scenario.case(seed, twin))


def _plan(options: argparse.Namespace) -> Iterator[tuple[Scenario, int]]:
    chosen = [one for one in SCENARIOS if not options.scenario or one.name in options.scenario]
    for scenario in chosen:
        if options.seeds or options.fresh:
            seeds = [
                *options.seeds,
                *random.SystemRandom().sample(range(TUNING_SEEDS.stop * 10, 1_000_000), options.fresh),
            ]
        else:
            seeds = list(range(STORM_SEEDS if scenario.name == "retry_storm" else 1))
        for seed in seeds:
            yield scenario, seed


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__)
    names = [one.name for one in SCENARIOS]
    parser.add_argument("--scenario", nargs="+", choices=names, metavar="NAME", help=f"some of: {', '.join(names)}")
    parser.add_argument("--seeds", type=_seeds, default=[], metavar="A-B,C", help="0-99 are for tuning")
    parser.add_argument("--fresh", type=int, default=0, metavar="N", help="N random seeds from 1000 on, printed")
    parser.add_argument("--tries", type=int, default=3, metavar="N", help="runs of a case while strangers disturb it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there, too")
    return parser.parse_args(arguments)


def _seeds(text: str) -> list[int]:
    """ "0-3,17" -> [0, 1, 2, 3, 17]."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


if __name__ == "__main__":
    sys.exit(main())
