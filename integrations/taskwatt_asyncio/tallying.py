"""What the agent's tick reads once a second: all figures of this process as immutable records."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from taskwatt.observations import ExecutorTally, InterpreterTally, Tallies


def no_executors() -> Mapping[str, ExecutorTally]:
    return {}


executors: Callable[[], Mapping[str, ExecutorTally]] = no_executors
"""Set by executors.py while it is installed."""

interpreter: Callable[[], InterpreterTally] = InterpreterTally
"""Set by interpreter.py while it watches."""


def tallies() -> Tallies:
    """All that was counted until now; on the agent's thread, by one reader only ("since the last reading")."""
    return Tallies({}, {}, executors(), interpreter())
