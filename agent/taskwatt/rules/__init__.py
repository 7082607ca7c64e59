"""One pure module for each finding: a frozen window in, a verdict out.

`evaluate` gives every cause of the public contract its line, also those no rule watches yet: silence is not health.
"""

from __future__ import annotations

from collections.abc import Mapping

from taskwatt.observations import ProcessClass
from taskwatt.rules import (
    fan_out,
    gil_contention,
    hot_loop,
    loop_blocked,
    never_settles,
    oversubscription,
    polling,
    rescan,
    retry_storm,
    starved,
    useful_compute,
)
from taskwatt.rules.finding import CONFIDENT, NOTICEABLE_CORES, Evidence, Finding, Rule, Verdict, not_enough_data
from taskwatt.windows import Window

__all__ = [
    "CAUSES",
    "CONFIDENT",
    "NOTICEABLE_CORES",
    "RULES",
    "UNWATCHED",
    "Evidence",
    "Finding",
    "Rule",
    "Verdict",
    "evaluate",
]

RULES: tuple[Rule, ...] = (
    Rule(retry_storm.CAUSE, retry_storm.WINDOW_S, retry_storm.check),
    Rule(never_settles.CAUSE, never_settles.WINDOW_S, never_settles.check),
    Rule(hot_loop.CAUSE, hot_loop.WINDOW_S, hot_loop.check),
    Rule(polling.CAUSE, polling.WINDOW_S, polling.check),
    Rule(rescan.CAUSE, rescan.WINDOW_S, rescan.check),
    Rule(fan_out.CAUSE, fan_out.WINDOW_S, fan_out.check),
    Rule(gil_contention.CAUSE, gil_contention.WINDOW_S, gil_contention.check),
    Rule(loop_blocked.CAUSE, loop_blocked.WINDOW_S, loop_blocked.check),
    Rule(oversubscription.CAUSE, oversubscription.WINDOW_S, oversubscription.check),
    Rule(starved.CAUSE, starved.WINDOW_S, starved.check),
    Rule(useful_compute.CAUSE, useful_compute.WINDOW_S, useful_compute.check),
)
"""useful_compute stands last: it speaks only where the others found nothing."""

UNWATCHED: tuple[str, ...] = (
    "serialization",
    "native_threads",
    "redelivery",
    "backlog_growth",
)
NOT_WATCHED = "not watched yet"

CAUSES: tuple[str, ...] = (*(rule.cause for rule in RULES), *UNWATCHED)

_VERDICT_ORDER: dict[Verdict, int] = {"found": 0, "clear": 1, "not_enough_data": 2}


def evaluate(windows: Mapping[float, Window]) -> tuple[Finding, ...]:
    """Every cause's line from the windows of one process class, keyed by the length asked for in seconds.

    Findings first, by wasted cores; then what is clear; then what could not be judged. Empty without any window.
    """
    if not windows:
        return ()
    process_class = next(iter(windows.values())).process_class
    findings: list[Finding] = []
    for rule in RULES:
        window = windows.get(rule.window_s)
        if window is None:
            summary = f"No window of {rule.window_s:g} s has been filled yet."
            findings.append(not_enough_data(rule.cause, process_class, summary))
        elif rule.cause == useful_compute.CAUSE:
            findings.extend(useful_compute.check(window, [finding for finding in findings if finding.found]))
        else:
            findings.extend(rule.check(window))
    findings.extend(_unwatched(process_class))
    return tuple(sorted(findings, key=_rank))


def _unwatched(process_class: ProcessClass) -> list[Finding]:
    return [not_enough_data(cause, process_class, NOT_WATCHED) for cause in UNWATCHED]


def _rank(finding: Finding) -> tuple[int, float, int]:
    return _VERDICT_ORDER[finding.verdict], -finding.wasted_cores, CAUSES.index(finding.cause)
