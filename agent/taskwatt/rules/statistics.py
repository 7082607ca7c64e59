"""What a sample allows one to claim: bounds for ratios, a mean for growth, and the one formula of confidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from taskwatt.windows import Window

Z_95 = 1.96
"""Two-sided 95 %: the bound that every ratio in a finding is held to."""

PSEUDO_OBSERVATIONS = 4
"""What Agresti and Coull add to a sample at 95 %; here the weight that real observations have to outgrow."""

LARGEST_STEP = 50.0
"""No backoff grows or shrinks further in one step; what does is a jittered draw of about 0 s on one side of it."""


def wilson_lower(successes: float, n: int) -> float:
    """The 95 % lower bound of `successes / n`; 0.0 for an empty sample.

    Wilson's score interval, which stays honest for small n and for ratios near 0 and 1 (Brown, Cai, DasGupta 2001).
    """
    if n <= 0:
        return 0.0
    ratio = min(1.0, successes / n)
    z2 = Z_95 * Z_95
    centre = ratio + z2 / (2 * n)
    spread = Z_95 * math.sqrt(ratio * (1 - ratio) / n + z2 / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z2 / n))


def steps(ratios: Iterable[float]) -> tuple[float, ...]:
    """The ratios between two delays that say something about a schedule: neither of the two was a draw of about 0 s.

    Dropping both sides alike matters: with only the falls to 0 left, full jitter would seem to shrink.
    """
    return tuple(ratio for ratio in ratios if 1 / LARGEST_STEP <= ratio <= LARGEST_STEP)


def growth_at_most(ratios: Sequence[float]) -> float:
    """The 95 % upper bound of the geometric mean of positive ratios; 1.0 (no growth) for an empty sample.

    The bound, because jitter scatters: only what is surely flat may be called flat.
    """
    if not ratios:
        return 1.0
    logs = [math.log(ratio) for ratio in ratios]
    mean = math.fsum(logs) / len(logs)
    variance = math.fsum((log - mean) ** 2 for log in logs) / max(1, len(logs) - 1)
    return math.exp(mean + Z_95 * math.sqrt(variance / len(logs)))


def median(sample: Iterable[float]) -> float:
    """As `statistics` has it, which loads decimal arithmetic and fractions for it; 0.0 for an empty sample."""
    ordered = sorted(sample)
    half = len(ordered) // 2
    if not ordered:
        return 0.0
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def percentile(sample: Iterable[float], share: float) -> float:
    """Nearest-rank percentile; 0.0 for an empty sample."""
    ordered = sorted(sample)
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def confidence(n: int, window: Window) -> float:
    """How far a finding from `n` observations may be believed, 0 to 1: coverage x kept x n / (n + 4).

    coverage  share of the kernel's CPU that the ledger explains
    kept      share of the records that were neither lost to a bound nor damaged
    n/(n+4)   n real observations against Agresti and Coull's four: 6 give 0.6, 20 give 0.83, 100 give 0.96
    """
    if n <= 0:
        return 0.0
    settled = sum(task.settled for task in window.tasks)
    kept = settled / (settled + window.dropped) if window.dropped else 1.0
    return window.coverage * kept * n / (n + PSEUDO_OBSERVATIONS)


def host_confidence(n: int) -> float:
    """The same for figures of the kernel's own, one reading a second: the ledger's coverage plays no part."""
    return n / (n + PSEUDO_OBSERVATIONS) if n > 0 else 0.0
