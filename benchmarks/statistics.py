"""Medians that say how sure they are: a shared machine is too noisy for a figure alone.

Samples come in groups (one group per start of the processes): two processes of the same program differ by more than two
rounds of one process do, so the bootstrap draws whole groups.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, TypeAlias

RESAMPLES = 1000

Groups: TypeAlias = Sequence[Sequence[float]]
Verdict: TypeAlias = Literal["met", "not met", "undecided"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and its 95 % interval."""

    low: float
    middle: float
    high: float

    def against(self, budget: float) -> Verdict:
        """Is the figure within `budget`? Undecided while the budget lies inside the interval."""
        if self.high <= budget:
            return "met"
        return "not met" if self.low > budget else "undecided"


def interval(groups: Groups) -> Interval:
    """Median of all samples. ValueError when there is none."""
    return combined(lambda values: values[0], groups)


def combined(function: Callable[[Sequence[float]], float], *many: Groups) -> Interval:
    """`function` of the medians of several independent samplings, each drawn on its own."""
    if not all(any(groups) for groups in many):
        raise ValueError("no samples")
    chance = random.Random(0)
    draws = sorted(function([_draw(groups, chance) for groups in many]) for _ in range(RESAMPLES))
    middle = function([median([value for group in groups for value in group]) for groups in many])
    return Interval(draws[int(0.025 * RESAMPLES)], middle, draws[int(0.975 * RESAMPLES) - 1])


def _draw(groups: Groups, chance: random.Random) -> float:
    drawn = chance.choices(groups, k=len(groups))
    return median([value for group in drawn for value in chance.choices(group, k=len(group))])
