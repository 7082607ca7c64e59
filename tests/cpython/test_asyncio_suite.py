"""The quick part of `make test-asyncio`: CPython's own tests end with the agent as they do without."""

from __future__ import annotations

import pytest

from tests.cpython import comparison
from tests.cpython.comparison import PLAIN, VARIANTS

pytestmark = pytest.mark.skipif(bool(comparison.missing()), reason=comparison.missing())

QUICK = ("test_taskgroups", "test_timeouts", "test_locks", "test_runners")


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != PLAIN])
@pytest.mark.parametrize("module", QUICK)
def test_cpythons_own_tests_end_as_without_the_agent(module: str, variant: str) -> None:
    if variant == "accelerator" and comparison.accelerator_missing():
        pytest.skip("the accelerator is not built")
    name = f"test.test_asyncio.{module}"
    compared = comparison.compare(name, variant, comparison.run(PLAIN, [name]))
    assert [str(difference) for difference in compared.differences] == []
    assert compared.steps > 0


def test_what_does_not_end_differs_instead_of_ending_the_comparison() -> None:
    name = "test.test_asyncio.test_locks"
    late = comparison.run(PLAIN, [name], patience_s=0.01)
    assert late.outcomes == {name: ["not ended after 0.01 s"]}
    assert name in comparison.different(comparison.run(PLAIN, [name]), late)
