"""Too many processes for the CPUs, and a host that gives them to others."""

from __future__ import annotations

import os
import random

from tests.faults.case import SILENCE, Arrival, Case, Expectation, poisson
from tests.faults.celery_app import CeleryWorker, Names, healthy
from tests.faults.mischief import Neighbours, Nothing, Quota


def cpus() -> int:
    return len(os.sched_getaffinity(0))


def burst(rng: random.Random, task: str, burn_s: float, cpu_s: float, at_s: float) -> list[Arrival]:
    """Work for so many CPU seconds, all at once, in the order of `rng`."""
    return [Arrival(at_s, task, (rng.randrange(1_000_000),)) for _ in range(int(cpu_s / burn_s))]


class Oversubscription:
    """Three busy processes for each CPU; the twin has one. A burst keeps all of them busy to the end."""

    name = "oversubscription"
    has_twin = True

    def unavailable(self) -> str:
        return ""

    def case(self, seed: int, twin: bool) -> Case:
        rng = random.Random(f"{self.name}/{seed}")
        names = Names(rng)
        burn_s = rng.uniform(0.03, 0.12)
        task = healthy(names, burn_s)
        onset_s = rng.uniform(5.0, 8.0)
        seconds = onset_s + 15.0
        before = [Arrival(at, task.name, (number,)) for number, at in enumerate(poisson(rng, 2.0, 0.0, onset_s))]
        arrivals = before + burst(rng, task.name, burn_s, cpus() * 15.0, onset_s)
        worker = CeleryWorker(f"{self.name}, seed {seed}", names, (task,), cpus() * (1 if twin else 3))
        found = Expectation(self.name)
        return Case(
            self.name, seed, twin, worker, Nothing(), tuple(arrivals), onset_s, seconds, SILENCE if twin else found
        )


class StarvedByNeighbours:
    """One busy child, and from the onset on neighbours that want every CPU; the twin has none."""

    name = "starved_by_neighbours"
    has_twin = True

    def unavailable(self) -> str:
        return ""

    def case(self, seed: int, twin: bool) -> Case:
        rng = random.Random(f"{self.name}/{seed}")
        names = Names(rng)
        burn_s = rng.uniform(0.02, 0.08)
        task = healthy(names, burn_s)
        onset_s = rng.uniform(5.0, 8.0)
        seconds = onset_s + 15.0
        arrivals = burst(rng, task.name, burn_s, seconds, 0.0)
        worker = CeleryWorker(f"{self.name}, seed {seed}", names, (task,), 1)
        count = cpus() * rng.randint(2, 3)
        return Case(
            self.name,
            seed,
            twin,
            worker,
            Nothing() if twin else Neighbours(count),
            tuple(arrivals),
            onset_s,
            seconds,
            SILENCE if twin else Expectation("starved"),
        )


class StarvedByQuota:
    """One busy child in a control group that grants less than a CPU; the twin's grants all."""

    name = "starved_by_quota"
    has_twin = True

    def unavailable(self) -> str:
        return Quota.unavailable()

    def case(self, seed: int, twin: bool) -> Case:
        rng = random.Random(f"{self.name}/{seed}")
        names = Names(rng)
        granted = rng.uniform(0.4, 0.6)
        quota = Quota(None if twin else granted)
        burn_s = rng.uniform(0.02, 0.08)
        task = healthy(names, burn_s)
        onset_s = rng.uniform(3.0, 5.0)
        seconds = onset_s + 15.0
        worker = CeleryWorker(f"{self.name}, seed {seed}", names, (task,), 1, python=quota.wrapper)
        return Case(
            self.name,
            seed,
            twin,
            worker,
            quota,
            tuple(burst(rng, task.name, burn_s, 15.0, onset_s)),
            onset_s,
            seconds,
            SILENCE if twin else Expectation("starved"),
        )
