"""What the triage document says of event loops, and of each process class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, get_args

from taskwatt.observations import ProcessClass, Stall
from taskwatt.windows import LoopWindow

CLASSES: Final[tuple[ProcessClass, ...]] = get_args(ProcessClass)

NOT_SEEN: Final = "not_seen"
_VERDICTS: Final = ("found", "not_enough_data", "clear", NOT_SEEN)
"""Which of them speaks for a class when its agents differ."""
_GOOD_NEWS: Final = "useful_compute"


def loops(windows: Sequence[LoopWindow], process_class: ProcessClass, pid: int | None) -> list[dict[str, Any]]:
    """Each event loop of one agent, the busiest first. `pid`: None where loops of several processes are one line."""
    return [
        {
            "pid": pid,
            "process_class": process_class,
            "name": one.name,
            "kind": one.kind,
            "utilization": _number(one.utilization),
            "delay_p50_s": _number(one.delay_quantile(0.5)),
            "delay_p99_s": _number(one.delay_quantile(0.99)),
            "ready_p95": one.ready_quantile(0.95) if one.ready_known else None,
            "slow_steps": one.slow_steps,
            "slow_s": _number(one.slow_s),
            "stalls": [
                {"cause": cause, "number": number, "seconds": _number(seconds)}
                for cause, (number, seconds) in sorted(one.stalls.items(), key=lambda item: -item[1][1])
            ],
            "worst": _worst(one.worst),
            "partial": one.partial or None,
        }
        for one in sorted(windows, key=lambda one: -one.busy_s)
    ]


def _worst(stall: Stall | None) -> dict[str, Any] | None:
    if stall is None:
        return None
    code = stall.code
    where = None if code is None else {"function": code.function, "file": code.file, "line": code.line}
    return {"task": stall.name or None, "cause": stall.cause, "duration_s": _number(stall.duration_s), "code": where}


def classes(documents: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line for each process class there can be. One that no agent watches here was not seen: nobody calls it well.

    An agent's processes are of one class, and its CPUs are those of the ledger: the same seconds as everything else is
    about, where a process has a figure of its newest second. That one stands in where an agent has two classes.
    """
    lines: dict[str, dict[str, Any]] = {name: _class(name, [], [], 0.0) for name in CLASSES}
    for document in documents:
        names = {process["process_class"] for process in document["processes"]}
        for name in names:
            processes = [one for one in document["processes"] if one["process_class"] == name]
            findings = [one for one in document["findings"] if one["process_class"] == name]
            newest = math.fsum(one["cpu_cores"] or 0.0 for one in processes)
            line = _class(name, processes, findings, document["ledger"]["total_cores"] if len(names) == 1 else newest)
            lines[name] = _joined(lines[name], line) if name in lines else line
    return list(lines.values())


def _class(
    name: str, processes: Sequence[Mapping[str, Any]], findings: Sequence[Mapping[str, Any]], cores: float
) -> dict[str, Any]:
    verdicts = {one["verdict"] for one in findings if one["cause"] != _GOOD_NEWS}
    causes = dict.fromkeys(one["cause"] for one in findings if one["verdict"] == "found")
    if not processes:
        verdict = NOT_SEEN
    elif verdicts & {"found", "clear"}:
        verdict = "found" if "found" in verdicts else "clear"
    else:
        verdict = "not_enough_data"
    return {
        "process_class": name,
        "alive": sum(bool(one["alive"]) for one in processes),
        "ended": sum(not one["alive"] for one in processes),
        "cpu_cores": _number(cores),
        "verdict": verdict,
        "causes": list(causes),
    }


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "process_class": one["process_class"],
        "alive": one["alive"] + other["alive"],
        "ended": one["ended"] + other["ended"],
        "cpu_cores": _number(one["cpu_cores"] + other["cpu_cores"]),
        "verdict": min(one["verdict"], other["verdict"], key=_VERDICTS.index),
        "causes": list(dict.fromkeys([*one["causes"], *other["causes"]])),
    }


def _number(value: float) -> float:
    return round(value, 6) if math.isfinite(value) else 0.0
