"""A task that publishes itself again with the arguments it was given. The twin moves on to the next page, and ends."""

from __future__ import annotations

import random

from tests.faults.case import SILENCE, Arrival, Case, Expectation, poisson
from tests.faults.celery_app import CeleryWorker, Names, healthy, write_task
from tests.faults.mischief import Nothing

AGAIN = """
{burn}({burn_s!r})
task.apply_async((number,){publish_options})
note(task, number, "ok")
"""

NEXT_PAGE = """
{burn}({burn_s!r})
if number % 1000 < {pages}:
    task.apply_async((number + 1,){publish_options})
note(task, number, "ok")
"""


class SelfReEnqueue:
    name = "self_re_enqueue"
    has_twin = True

    def unavailable(self) -> str:
        return ""

    def case(self, seed: int, twin: bool) -> Case:
        rng = random.Random(f"{self.name}/{seed}")
        names = Names(rng)
        options = rng.choice(("", "", ", countdown=0.05"))
        burn_s, pages = rng.uniform(0.002, 0.012), rng.randint(25, 40)
        body = NEXT_PAGE if twin else AGAIN
        culprit = write_task(names, body, burn_s=burn_s, pages=pages, publish_options=options)
        other = healthy(names, rng.uniform(0.002, 0.015))
        onset_s = rng.uniform(5.0, 8.0)
        seconds = onset_s + 15.0
        started = [Arrival(onset_s, culprit.name, (1000 * chain,)) for chain in range(rng.randint(1, 4))]
        background = [
            Arrival(at, other.name, (number,))
            for number, at in enumerate(poisson(rng, rng.uniform(3.0, 10.0), 0.0, seconds))
        ]
        found = Expectation("never_settles", culprit.name, function=culprit.function, wasted=True)
        worker = CeleryWorker(f"{self.name}, seed {seed}", names, (culprit, other), rng.choice((1, 2)))
        return Case(
            self.name,
            seed,
            twin,
            worker,
            Nothing(),
            tuple(sorted(started + background)),
            onset_s,
            seconds,
            SILENCE if twin else found,
        )
