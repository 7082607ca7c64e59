"""Readings that an integration takes for the agent: queue depths, pool slots, what a worker holds back.

An integration hands the agent a function that is called off the hot path, a few times a minute, on the agent's own
thread, and may block for a second. What it returns is exported under the metric's public name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of one gauge at one moment."""

    metric: str
    value: float
    attributes: Mapping[str, str]


Probe: TypeAlias = Callable[[], Iterable[Reading]]
