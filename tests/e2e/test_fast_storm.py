"""A storm as fast as evidence is promised for: two workers without a pool, on whose way no message passes a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.e2e.conftest import Backends
from tests.e2e.storm import BURN_S, FINDING, RATE
from tests.e2e.test_whole_storm import DECIDED_S
from tests.support.processes import wait_for
from tests.support.worker import Worker

SERVICE = "fast"
TASKS = 600
LASTS_S = 30


def test_every_link_of_its_incidents_resolves_and_jaeger_gets_a_bounded_part(
    backends: Backends, start_shop: Callable[..., Worker], state: Callable[[str], None]
) -> None:
    jaeger, prometheus = backends.jaeger, backends.prometheus
    workers = [start_shop(backends, SERVICE, options=("--pool", "solo", "--hostname", "one@%h"))]
    workers.append(start_shop(backends, SERVICE, workers[0], options=("--pool", "solo", "--hostname", "two@%h")))
    until = time.time() + LASTS_S
    for _ in range(TASKS):
        workers[0].send("charge", until, BURN_S)
    wait_for(lambda: jaeger.find(SERVICE, FINDING), 60, "the incidents in Jaeger")
    wait_for(lambda: time.time() > until + DECIDED_S, LASTS_S + 2 * DECIDED_S, "the end of the storm")

    attempts = int(prometheus.value(f'sum(celery_task_attempts_total{{job="{SERVICE}"}})'))
    traces = jaeger.search(SERVICE, "run/tests.charge")
    marked = {one.trace_id for trace in traces for one in trace if one.tags.get("taskwatt.keep")}
    found = jaeger.find(SERVICE, FINDING)
    links = {link for one in found for link in one.links}
    state(
        f"fast: {attempts / LASTS_S:.0f} attempts a second (evidence is promised for {RATE}); of {attempts} attempts "
        f"of {TASKS} tasks Jaeger holds {len(traces)} traces, {len(marked)} of them marked; {len(links)} links"
    )
    assert attempts > TASKS
    assert marked
    assert all(one.links for one in found)
    wait_for(lambda: all(jaeger.has(*link) for link in links), DECIDED_S, f"all of {len(links)} links")
    # Each worker marks two attempts at once and one in ten seconds.
    assert len(marked) <= len(workers) * (2 + (LASTS_S + 30) / 10)
    # A tenth by trace id, within five standard deviations, and what is marked.
    assert len(traces) <= TASKS * 0.1 + 5 * (TASKS * 0.1 * 0.9) ** 0.5 + len(marked)
