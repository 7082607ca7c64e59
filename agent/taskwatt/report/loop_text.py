"""The lines of the screen that tell of process classes and of event loops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from taskwatt.report.loops import NOT_SEEN
from taskwatt.report.terminal import Paint, plain, shortened, shortened_path, wrapped

LOOPS: Final = 4
"""Event loops shown; the rest is one line."""

_STYLES: Final = {"found": "yellow", "clear": "green", "not_enough_data": "dim"}
_CAUSES: Final = {
    "blocking": "blocking",
    "own_cpu": "own CPU",
    "gil": "GIL",
    "starved": "no CPU",
    "unknown": "unknown",
}


def class_lines(classes: Sequence[Mapping[str, Any]], paint: Paint, width: int) -> list[str]:
    """One for each class that is here, and one for those that are not.

    Where there is but one, the whole screen is about it, and its first line says what this one would.
    """
    seen = [_class_line(one, paint, width) for one in classes if one["verdict"] != NOT_SEEN]
    unseen = [plain(one["process_class"]) for one in classes if one["verdict"] == NOT_SEEN]
    lines = seen if len(seen) > 1 else []
    return [*lines, paint("dim", f"  not seen here: {', '.join(unseen)}"[:width])] if seen and unseen else lines


def _class_line(one: Mapping[str, Any], paint: Paint, width: int) -> str:
    number, ended = one["alive"], one["ended"]
    over = ended and not number
    count = ended if over else number
    processes = f"{count} process{'' if count == 1 else 'es'}"
    processes += " ended" if over else f" and {ended} ended" if ended else ""
    said = {
        "found": ", ".join(one["causes"]),
        "clear": ", ".join(one["causes"]) or "nothing found",
        "not_enough_data": ", ".join(one["causes"]) or "not enough data",
    }[one["verdict"]]
    figures = f"  {shortened(one['process_class'], 10):<10} {processes:<24} {one['cpu_cores']:>6.2f} CPUs  "
    return figures + paint(_STYLES[one["verdict"]], plain(said)[: max(0, width - len(figures))])


def loop_lines(
    loops: Sequence[Mapping[str, Any]], carriers: Sequence[str], paint: Paint, width: int, most: int = LOOPS
) -> list[str]:
    """How long an arrival waits in each loop, what held it up, and what cannot be seen; who measures it all.

    `carriers` are of attempts as well, and stand alone without a loop.
    """
    measured = _told("measured by", carriers, paint, width)
    if not loops:
        return measured
    name = max(20, width - 62)
    lines = [paint("dim", f"{'event loop':<{name}} {'busy':>6} {'waits p50':>11} {'p99':>9}  held up"[:width])]
    for one in loops[:most]:
        lines += _loop(one, name, paint, width)
    if len(loops) > most:
        lines.append(paint("dim", f"{'':<{name}} and {len(loops) - most} more"))
    partial = dict.fromkeys(one["partial"] for one in loops if one["partial"])
    return [*lines, *_told("partly seen:", partial, paint, width), *measured]


def _told(what: str, each: Iterable[str], paint: Paint, width: int) -> list[str]:
    """Sentences that somebody must be able to read to their end."""
    return [paint("dim", line) for one in each for line in wrapped(f"  {what} {one}", width, indent="    ")]


def _loop(one: Mapping[str, Any], name: int, paint: Paint, width: int) -> list[str]:
    who = f"{one['name']} ({one['kind']}{', pid ' + str(one['pid']) if one['pid'] else ''})"
    stalls = _held(one)
    line = (
        f"{shortened(who, name):<{name}} {one['utilization']:>6.0%} {_time(one['delay_p50_s']):>11} "
        f"{_time(one['delay_p99_s']):>9}  "
    )
    lines = [line + paint("yellow", plain(stalls)[: max(0, width - len(line))]) if stalls else line.rstrip()]
    worst = one["worst"]
    if worst is not None:
        task = f" in {worst['task']}" if worst["task"] else ""
        said, code = f"  longest: {_time(worst['duration_s'])}{task}", worst["code"]
        if code:
            said += f" at {code['function']}  "
            said += shortened_path(f"{code['file']}:{code['line']}", width - len(said))
        lines += wrapped(said, width, indent="    ")
    return lines


def _held(one: Mapping[str, Any]) -> str:
    """How often, which is counted; and by what, which only the records of some of these steps tell."""
    told: Sequence[Mapping[str, Any]] = one["stalls"]
    number = one.get("slow_steps", sum(each["number"] for each in told))
    if not number:
        return ""
    named = [(_CAUSES.get(each["cause"], each["cause"]), each["seconds"]) for each in told]
    total = sum(seconds for _, seconds in named)
    if len(named) < 2 or total <= 0:
        return f"{number:,.0f}x {named[0][0] if named else ''}".rstrip()
    return f"{number:,.0f}x: " + ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in named)


def _time(seconds: float) -> str:
    if seconds >= 1.0:
        return f"{seconds:.2g} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.0995 else f"{seconds * 1000:.2g} ms"
