"""A dependency goes down under a task that retries at once. The twin waits for longer than anybody watches.

The twin's retries must not run inside the window, or its own repeats would be subtracted from the waste. So its first
delay is a minute; that a backoff of seconds is no storm either is `retry_backoff`'s business.
"""

from __future__ import annotations

import random

from tests.faults.case import SILENCE, Arrival, Case, Expectation, poisson
from tests.faults.celery_app import CeleryWorker, Names, Task, healthy, write_task
from tests.faults.mischief import Dependency

EXPLICIT = """
{burn}({burn_s!r})
try:
    with socket.create_connection(("127.0.0.1", int(os.environ["FAULTS_PORT"])), timeout=1):
        note(task, number, "ok")
except OSError as error:
    last = task.max_retries is not None and task.request.retries >= task.max_retries
    note(task, number, "failed" if last else "retry")
    raise task.retry(exc=error, countdown={countdown})
"""

AUTOMATIC = """
{burn}({burn_s!r})
try:
    with socket.create_connection(("127.0.0.1", int(os.environ["FAULTS_PORT"])), timeout=1):
        note(task, number, "ok")
except OSError:
    last = task.max_retries is not None and task.request.retries >= task.max_retries
    note(task, number, "failed" if last else "retry")
    raise
"""


BURN_DOMINATES_S = 0.006
"""Handling an exception and publishing the retry cost 2 to 4 ms: a smaller burn is not where the time goes."""


def dependent(names: Names, rng: random.Random, twin: bool) -> tuple[Task, str]:
    """A task that needs the dependency and its way of retrying; and the function that burns most, if that is known."""
    burn_s = rng.uniform(0.001, 0.012)
    most = rng.choice((None, None, 25, 12))
    delay_s = rng.choice((0, 0, 0, 0.2))
    if rng.random() < 0.5:
        countdown = "60 * 2 ** task.request.retries" if twin else repr(delay_s)
        task = write_task(names, EXPLICIT, f"max_retries={most}", burn_s=burn_s, countdown=countdown)
        return task, task.function if burn_s >= BURN_DOMINATES_S else ""
    backoff = "retry_backoff=60, retry_jitter=False, " if twin else ""
    options = f"autoretry_for=(OSError,), {backoff}max_retries={most}, retry_kwargs={{'countdown': {delay_s}}}"
    task = write_task(names, AUTOMATIC, options, burn_s=burn_s)
    return task, task.function if burn_s >= BURN_DOMINATES_S else ""


class RetryStorm:
    name = "retry_storm"
    has_twin = True

    def unavailable(self) -> str:
        return ""

    def case(self, seed: int, twin: bool) -> Case:
        rng = random.Random(f"{self.name}/{seed}")
        names, dependency = Names(rng), Dependency()
        culprit, hot = dependent(names, rng, twin)
        others = [healthy(names, rng.uniform(0.002, 0.02)) for _ in range(rng.randint(1, 3))]
        onset_s = rng.uniform(6.0, 9.0)
        seconds = onset_s + 14.0
        load = [(culprit, rng.uniform(4.0, 9.0)), *((other, rng.uniform(2.0, 8.0)) for other in others)]
        arrivals = sorted(
            Arrival(at, task.name, (number,))
            for task, rate in load
            for number, at in enumerate(poisson(rng, rate, 0.0, seconds))
        )
        found = Expectation(self.name, culprit.name, function=hot, wasted=True, amplification=True)
        return Case(
            scenario=self.name,
            seed=seed,
            twin=twin,
            subject=CeleryWorker(
                f"{self.name}, seed {seed}",
                names,
                (culprit, *others),
                rng.choice((1, 2)),
                lambda: {"FAULTS_PORT": str(dependency.port)},
            ),
            fault=dependency,
            arrivals=tuple(arrivals),
            onset_s=onset_s,
            seconds=seconds,
            expectation=SILENCE if twin else found,
        )
