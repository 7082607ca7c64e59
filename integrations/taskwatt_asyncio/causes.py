"""Why a step held its loop: from what the kernel says of its thread, and of the others, in that time.

A stall is CPU of the loop's thread, waiting for a CPU, and a rest in which the thread did neither. The first two name
themselves: own CPU, a starved host. In the rest it waited, for something outside (a blocking call) or for the
interpreter, which other threads kept. What tells those two apart, measured on 3.11 beside one to eight threads in pure
Python (2 CPUs):

- the others used CPU for the whole rest (0.6-1.0 of it), but so they do beside a call that sleeps;
- a thread that waits for the interpreter wakes up every switch interval (5 ms) to ask for it: 0.5-3 wake-ups for each
  interval of the rest, 0.03-0.3 beside a call that sleeps;
- a call that sleeps often and briefly wakes up as often. But seen from a thread that holds the interpreter it sleeps in
  the kernel somewhere, where one that wants the interpreter waits for a futex.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from taskwatt.observations import StallCause

MIN_GIL_REST: Final = 0.4
"""Of the stall: beside one hog a step that computes gets half of the interpreter (0.42-0.56 measured)."""
MIN_OTHERS_CPU: Final = 0.6
"""Of the rest. 0.64 was the least beside hogs."""
MIN_WAKE_UPS: Final = 0.4
"""For each switch interval of the rest."""
MAX_ASLEEP: Final = 0.5
"""Share of looks that met the thread asleep in something else than a futex."""
OWN_CPU_ALONE: Final = 0.5
"""Where nothing else is known, so much of the stall must be CPU to call it the loop's own."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of one stall; seconds. NaN: not known."""

    duration_s: float
    cpu_s: float
    """Of the loop's thread."""
    run_delay_s: float = math.nan
    """How long that thread waited for a CPU."""
    others_cpu_s: float = math.nan
    """Of the process's other threads."""
    wake_ups: float = math.nan
    """How often that thread gave up its CPU of its own accord."""
    asleep: float = math.nan
    """Share of looks from a thread that held the interpreter, in which it slept in something else than a futex."""
    switch_interval_s: float = 0.005


def cause_of(figures: Figures) -> StallCause:
    """The largest part of a stall gives it its name."""
    duration_s, cpu_s, run_delay_s = figures.duration_s, figures.cpu_s, figures.run_delay_s
    if math.isnan(run_delay_s):
        if cpu_s >= OWN_CPU_ALONE * duration_s:
            return "own_cpu"
        if math.isnan(figures.others_cpu_s):
            return "unknown"
        run_delay_s = 0.0
    rest_s = duration_s - cpu_s - run_delay_s
    if rest_s >= MIN_GIL_REST * duration_s and _interpreter_was_taken(figures, rest_s):
        return "gil"
    if rest_s >= max(cpu_s, run_delay_s):
        return "blocking"
    return "starved" if run_delay_s > cpu_s else "own_cpu"


def _interpreter_was_taken(figures: Figures, rest_s: float) -> bool:
    """A figure that is not known excludes nothing but the CPU of the others, without which nobody took it."""
    return (
        figures.others_cpu_s >= MIN_OTHERS_CPU * rest_s
        and not figures.wake_ups * figures.switch_interval_s < MIN_WAKE_UPS * rest_s
        and not figures.asleep > MAX_ASLEEP
    )
