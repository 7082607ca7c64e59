"""Every scenario, in the order in which the table shows them. A new one is a module here and a line below."""

from __future__ import annotations

from tests.faults.case import Scenario
from tests.faults.scenarios.capacity import Oversubscription, StarvedByNeighbours, StarvedByQuota
from tests.faults.scenarios.event_loops import LOOP_SCENARIOS
from tests.faults.scenarios.healthy import DrainingBurst, Etl, Idle, UsefulCompute
from tests.faults.scenarios.retry_controls import FlakyRetries, RetryBackoff
from tests.faults.scenarios.retry_storm import RetryStorm
from tests.faults.scenarios.self_re_enqueue import SelfReEnqueue

SCENARIOS: tuple[Scenario, ...] = (
    RetryStorm(),
    RetryBackoff(),
    FlakyRetries(),
    SelfReEnqueue(),
    Oversubscription(),
    StarvedByNeighbours(),
    StarvedByQuota(),
    UsefulCompute(),
    Etl(),
    DrainingBurst(),
    Idle(),
    *LOOP_SCENARIOS,
)
