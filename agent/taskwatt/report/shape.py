"""Is this the document it says it is? Files of other versions, torn ones and hostile ones are read as well.

Whoever renders or merges documents relies on what is checked here, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from taskwatt.report.triage import SCHEMA

Shape: TypeAlias = "Callable[[Any], bool] | dict[str, Shape] | list[Shape]"
"""A predicate; a mapping that has these keys; a list (written with its one kind of item) of any length."""

_LARGEST = 1e18
"""No number of a document is larger; floats that are could not be divided or rounded."""


def well_formed(document: Mapping[str, Any]) -> bool:
    """Does it have everything that a document of this schema has, each of its kind?"""
    later = (key not in document or _fits(document[key], shape) for key, shape in _LATER.items())
    return document.get("schema") == SCHEMA and _fits(document, _DOCUMENT) and all(later)


def _fits(value: Any, shape: Shape) -> bool:
    if callable(shape):
        return shape(value)
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(key in value and _fits(value[key], shape[key]) for key in shape)
    return isinstance(value, list) and all(_fits(each, shape[0]) for each in cast(list[object], value))


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST


def _maybe(shape: Shape) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        return value is None or _fits(value, shape)

    return check


def _one_of(*words: str | None) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        return (value is None or isinstance(value, str)) and value in words

    return check


_HOST: dict[str, Shape] = dict.fromkeys(
    ("effective_cpus", "own_cpu", "own_run_delay", "throttled_ratio", "steal_ratio"), _maybe(_number)
)
_PROCESS: Shape = {
    "pid": _number,
    "process_class": _text,
    "role": _text,
    "cpu_cores": _maybe(_number),
    "mode": _text,
    "alive": _flag,
    "started_at": _text,
}
_ROW: Shape = {"task": _text, "outcome": _text, "activity": _text, "cpu_s": _number, "cores": _number}
_CODE: Shape = {
    "task": _text,
    "function": _maybe(_text),
    "file": _maybe(_text),
    "line": _maybe(_number),
    "share": _maybe(_number),
    "samples": _number,
    "missing": _maybe(_text),
}
_LEDGER: Shape = {
    "total_cores": _number,
    "wasted_cores": _number,
    "useful_ratio": _number,
    "unattributed_ratio": _number,
    "rows": [_ROW],
    "code": [_CODE],
}
_CLAIM: Shape = {
    "cause": _text,
    "task": _text,
    "from_task": _maybe(_text),
    "from_outcome": _maybe(_text),
    "cores": _number,
}
_EVIDENCE: Shape = {"metric": _text, "value": _maybe(_number), "threshold": _maybe(_number), "n": _number}
_FINDING: dict[str, Shape] = {
    "cause": _text,
    "subtype": _maybe(_text),
    "verdict": _one_of("clear", "not_enough_data"),
    "severity": _maybe(_text),
    "process_class": _text,
    "task": _maybe(_text),
    "wasted_cores": _number,
    "confidence": _number,
    "summary": _text,
    "evidence": [_EVIDENCE],
    "ruled_out": [_text],
    "next_step": _maybe(_text),
    "code": _maybe({"function": _text, "file": _text, "line": _number}),
    "incident_id": _maybe(_text),
}
_FOUND: Shape = {**_FINDING, "verdict": _one_of("found"), "severity": _one_of("info", "warning", "critical")}


def _host(value: Any) -> bool:
    return value == {} or _fits(value, _HOST)


def _ledger(value: Any) -> bool:
    """`claims` came later."""
    return _fits(value, _LEDGER) and _fits(value.get("claims", []), [_CLAIM])


def _finding(value: Any) -> bool:
    return _fits(value, _FINDING) or _fits(value, _FOUND)


_DOCUMENT: Shape = {
    "window_s": _number,
    "host": _host,
    "processes": [_PROCESS],
    "ledger": _ledger,
    "findings": [_finding],
}

_STALLS: Shape = {"cause": _text, "number": _number, "seconds": _number}
_WORST: Shape = {
    "task": _maybe(_text),
    "cause": _text,
    "duration_s": _number,
    "code": _maybe({"function": _text, "file": _text, "line": _number}),
}
_LOOP: Shape = {
    "pid": _maybe(_number),
    "process_class": _text,
    "name": _text,
    "kind": _text,
    "utilization": _number,
    "delay_p50_s": _number,
    "delay_p99_s": _number,
    "stalls": [_STALLS],
    "worst": _maybe(_WORST),
    "partial": _maybe(_text),
}
_LOOP_LATER: dict[str, Shape] = {"slow_steps": _number, "slow_s": _number}
"""What loops of earlier documents do not have."""


def _loop(value: Any) -> bool:
    return _fits(value, _LOOP) and all(
        key not in value or _fits(value[key], shape) for key, shape in _LOOP_LATER.items()
    )


def _nothing(value: Any) -> bool:
    return value is None


_LATER: dict[str, Shape] = {"loops": [_loop], "carriers": [_text], "ended_at": _nothing, "ended_s_ago": _nothing}
"""What documents of the first version of the schema do not have. (`classes` is made anew by whoever reads.) No agent
writes that it has ended."""
