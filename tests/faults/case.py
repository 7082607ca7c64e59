"""What a scenario describes: an application, its load, the fault and when it strikes, and what ought to be said."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

TUNING_SEEDS = range(100)
"""Thresholds may be looked at under these; others decide."""

WATCHED = frozenset(
    {
        "retry_storm",
        "never_settles",
        "hot_loop",
        "polling",
        "rescan",
        "fan_out",
        "gil_contention",
        "loop_blocked",
        "oversubscription",
        "starved",
        "useful_compute",
    }
)
"""The causes that the agent has rules for; a control must read `clear` for each."""


@dataclass(frozen=True, order=True)
class Arrival:
    """One piece of work, offered `at_s` after the load began, whether or not the last one has ended (open loop)."""

    at_s: float
    task: str
    args: tuple[Any, ...] = ()


class Subject(Protocol):
    """The program under test, with the agent in it. Its context lasts from ready to stopped."""

    @property
    def pids(self) -> list[int]:
        """Main process and children, now."""
        ...

    @property
    def servers(self) -> list[int]:
        """Pids of what it needs beside it: a broker."""
        ...

    @property
    def directory(self) -> Path:
        """The agent's runtime directory."""
        ...

    @property
    def notes(self) -> Path:
        """Where the application writes a line per attempt (see notes.py)."""
        ...

    def offer(self, arrival: Arrival) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Fault(Protocol):
    """What goes wrong around the subject. Its context lasts longer than the subject's."""

    @property
    def pids(self) -> list[int]:
        """Processes of its own, now."""
        ...

    def strike(self) -> None:
        """Called once, at the onset."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True)
class Expectation:
    """What the agent should open an incident for; no cause means that it should stay silent."""

    cause: str = ""
    task: str = ""
    within_s: float | None = 12.0
    """From the onset to `opened_at`; None where the cause is no fault, so that nobody waits for it."""
    function: str = ""
    """The function that burns, where there is one to be named."""
    wasted: bool = False
    """Is its waste the difference to the twin?"""
    amplification: bool = False
    tolerated: frozenset[str] = field(default_factory=lambda: frozenset({"useful_compute"}))
    """Causes that are true as well, whether said or not."""

    @property
    def expected(self) -> frozenset[tuple[str, str]]:
        return frozenset({(self.cause, self.task)}) if self.cause else frozenset()


SILENCE = Expectation()


@dataclass(frozen=True)
class Case:
    """One run."""

    scenario: str
    seed: int
    twin: bool
    subject: Callable[[Path], AbstractContextManager[Subject]]
    """Given an empty folder; started inside the fault's context."""
    fault: Fault
    arrivals: tuple[Arrival, ...]
    onset_s: float
    """After the load began."""
    seconds: float
    """Of load, before and after the onset; at most 25."""
    expectation: Expectation

    @property
    def name(self) -> str:
        return f"{self.scenario}{' twin' if self.twin else ''}"


class Scenario(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def has_twin(self) -> bool: ...

    def unavailable(self) -> str:
        """Why it cannot run on this machine; empty when it can."""
        ...

    def case(self, seed: int, twin: bool) -> Case:
        """The same arguments give the same case; bug and twin differ in nothing but the bug."""
        ...


def poisson(rng: random.Random, rate: float, begin_s: float, end_s: float) -> Iterable[float]:
    """Arrival times of independent visitors, `rate` a second."""
    at = begin_s + rng.expovariate(rate)
    while at < end_s:
        yield at
        at += rng.expovariate(rate)
