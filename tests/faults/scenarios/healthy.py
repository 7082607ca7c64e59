"""Nothing is wrong: honest work, big JSON, a burst that drains, no work at all."""

from __future__ import annotations

import random

from tests.faults.case import SILENCE, Arrival, Case, Expectation, poisson
from tests.faults.celery_app import CeleryWorker, Names, healthy, write_task
from tests.faults.mischief import Nothing

ETL = """
rows = [{{"id": number + i, "price": i * 1.1, "tags": ["a", "b"], "text": "x" * 20}} for i in range({rows})]
{burn}({burn_s!r})
json.loads(json.dumps(rows))
note(task, number, "ok")
"""


class _Healthy:
    name = ""
    has_twin = False

    def unavailable(self) -> str:
        return ""


class UsefulCompute(_Healthy):
    """CPU is high because there is work; that is to be said, too."""

    name = "useful_compute"

    def case(self, seed: int, twin: bool) -> Case:
        rng = random.Random(f"{self.name}/{seed}")
        names = Names(rng)
        heavy_s, light_s = rng.uniform(0.02, 0.08), rng.uniform(0.002, 0.02)
        heavy, light = healthy(names, heavy_s), healthy(names, light_s)
        seconds = 22.0
        cores = rng.uniform(0.75, 1.1)
        arrivals = [
            Arrival(at, task.name, (number,))
            for task, rate in ((heavy, cores / heavy_s), (light, 0.1 / light_s))
            for number, at in enumerate(poisson(rng, rate, 0.0, seconds))
        ]
        worker = CeleryWorker(f"{self.name}, seed {seed}", names, (heavy, light), 2)
        found = Expectation(self.name, heavy.name, within_s=None, function=heavy.function)
        return Case(self.name, seed, twin, worker, Nothing(), tuple(sorted(arrivals)), 0.0, seconds, found)


class Etl(_Healthy):
    """Constant big JSON is information, not waste."""

    name = "etl"

    def case(self, seed: int, twin: bool) -> Case:
        rng = random.Random(f"{self.name}/{seed}")
        names = Names(rng)
        task = write_task(names, ETL, rows=rng.randint(5_000, 20_000), burn_s=rng.uniform(0.001, 0.02))
        seconds = 20.0
        arrivals = [
            Arrival(at, task.name, (number,))
            for number, at in enumerate(poisson(rng, rng.uniform(3.0, 8.0), 0.0, seconds))
        ]
        worker = CeleryWorker(f"{self.name}, seed {seed}", names, (task,), 2)
        return Case(self.name, seed, twin, worker, Nothing(), tuple(arrivals), 2.0, seconds, SILENCE)


class DrainingBurst(_Healthy):
    """Many messages at once, all done a few seconds later."""

    name = "draining_burst"

    def case(self, seed: int, twin: bool) -> Case:
        rng = random.Random(f"{self.name}/{seed}")
        names = Names(rng)
        task, other = healthy(names, rng.uniform(0.002, 0.01)), healthy(names, rng.uniform(0.002, 0.02))
        onset_s, seconds = rng.uniform(4.0, 6.0), 20.0
        arrivals = [Arrival(onset_s, task.name, (number,)) for number in range(rng.randint(300, 900))]
        background = [
            Arrival(at, other.name, (number,))
            for number, at in enumerate(poisson(rng, rng.uniform(3.0, 10.0), 0.0, seconds))
        ]
        worker = CeleryWorker(f"{self.name}, seed {seed}", names, (task, other), 2)
        return Case(
            self.name, seed, twin, worker, Nothing(), tuple(sorted(arrivals + background)), onset_s, seconds, SILENCE
        )


class Idle(_Healthy):
    """A worker that waits."""

    name = "idle"

    def case(self, seed: int, twin: bool) -> Case:
        rng = random.Random(f"{self.name}/{seed}")
        names = Names(rng)
        worker = CeleryWorker(f"{self.name}, seed {seed}", names, (healthy(names, 0.01),), rng.choice((1, 2, 4)))
        return Case(self.name, seed, twin, worker, Nothing(), (), 1.0, 15.0, SILENCE)
