"""Retries that are as they should be: a dependency down for everybody under backoff, and a flaky one."""

from __future__ import annotations

import random

from tests.faults.case import SILENCE, Arrival, Case, poisson
from tests.faults.celery_app import CeleryWorker, Names, healthy, write_task
from tests.faults.mischief import Dependency, Nothing
from tests.faults.scenarios.retry_storm import AUTOMATIC, EXPLICIT

FLAKY = """
{burn}({burn_s!r})
if number % 20 == 0 and task.request.retries == 0:
    note(task, number, "retry")
    raise task.retry(countdown=2 ** task.request.retries)
note(task, number, "ok")
"""


class RetryBackoff:
    """Every call fails, every retry doubles its pause: much retrying, no storm."""

    name = "retry_backoff"
    has_twin = False

    def unavailable(self) -> str:
        return ""

    def case(self, seed: int, twin: bool) -> Case:
        rng = random.Random(f"{self.name}/{seed}")
        names, dependency = Names(rng), Dependency()
        burn_s = rng.uniform(0.001, 0.01)
        if rng.random() < 0.5:
            options = "autoretry_for=(OSError,), retry_backoff=True, retry_jitter=True, max_retries=8"
            task = write_task(names, AUTOMATIC, options, burn_s=burn_s)
        else:
            countdown = "2 ** task.request.retries"
            task = write_task(names, EXPLICIT, "max_retries=None", burn_s=burn_s, countdown=countdown)
        other = healthy(names, rng.uniform(0.005, 0.02))
        onset_s, seconds = 5.0, 23.0
        arrivals = [
            Arrival(at, one.name, (number,))
            for one, rate in ((task, rng.uniform(4.0, 9.0)), (other, rng.uniform(2.0, 8.0)))
            for number, at in enumerate(poisson(rng, rate, 0.0, seconds))
        ]
        worker = CeleryWorker(
            f"{self.name}, seed {seed}", names, (task, other), 2, lambda: {"FAULTS_PORT": str(dependency.port)}
        )
        return Case(
            self.name, seed, twin, worker, dependency, tuple(sorted(arrivals)), onset_s, seconds, expectation=SILENCE
        )


class FlakyRetries:
    """One call in twenty fails once and is retried after a second."""

    name = "flaky_retries"
    has_twin = False

    def unavailable(self) -> str:
        return ""

    def case(self, seed: int, twin: bool) -> Case:
        rng = random.Random(f"{self.name}/{seed}")
        names = Names(rng)
        task = write_task(names, FLAKY, burn_s=rng.uniform(0.004, 0.012))
        seconds = 20.0
        arrivals = [
            Arrival(at, task.name, (number,))
            for number, at in enumerate(poisson(rng, rng.uniform(30.0, 60.0), 0.0, seconds))
        ]
        worker = CeleryWorker(f"{self.name}, seed {seed}", names, (task,), 2)
        return Case(self.name, seed, twin, worker, Nothing(), tuple(arrivals), 2.0, seconds, expectation=SILENCE)
