"""The storm that several tests look at: 600 tasks, each retried at once until a minute and more has passed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from tests.e2e.backends import JaegerSpan
from tests.support.worker import Worker

if TYPE_CHECKING:
    from tests.e2e.conftest import Backends

SERVICE: Final = "storm"
FINDING: Final = "taskwatt.finding retry_storm"
TASKS: Final = 600
LASTS_S: Final = 75
BURN_S: Final = 0.0005
"""Little beside the milliseconds that Celery itself uses for an attempt that is retried at once."""
RATE: Final = 500
"""Attempts a second for which evidence is promised (test_fast_storm); a machine with other work to do makes fewer."""
WASTE_ALERTS: Final = {"CeleryRetryStorm", "CeleryWastedCores", "TaskwattIncident"}


@dataclass(frozen=True)
class Storm:
    backends: Backends
    worker: Worker

    @classmethod
    def begin(cls, backends: Backends, start_shop: Callable[..., Worker]) -> Self:
        worker = start_shop(backends, SERVICE, options=("--concurrency", "2"))
        until = time.time() + LASTS_S
        for _ in range(TASKS):
            worker.send("charge", until, BURN_S)
        return cls(backends, worker)

    @property
    def attempts(self) -> int:
        return int(self.backends.prometheus.value(f'sum(celery_task_attempts_total{{job="{SERVICE}"}})'))

    def findings(self, **tags: str) -> list[JaegerSpan]:
        """Its incident's spans, oldest first."""
        return self.backends.jaeger.find(SERVICE, FINDING, **tags)
