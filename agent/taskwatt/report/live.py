"""One frame of `taskwatt top`: the headline, the processes, and where the CPU goes right now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from taskwatt.report import text
from taskwatt.report.loop_text import loop_lines
from taskwatt.report.terminal import Paint, plain, shortened
from taskwatt.report.triage import Document, merge

LEDGER_ROWS = 8
PROCESS_ROWS = 12
LOOPS = 3

WAITING = (
    "Nothing is watched here yet: start a process with TASKWATT_ENABLED=1 (and the same TASKWATT_DIR, if you set one)."
)


def frame(documents: Sequence[Document], *, color: bool, width: int, height: int) -> list[str]:
    """At most `height` lines of at most `width` columns, for documents of any number of agents."""
    if not documents:
        return [plain(WAITING)[:width]]
    paint = Paint(color)
    document = merge(documents)
    seen = loop_lines(document["loops"], document["carriers"], paint, width, LOOPS)
    lines = [
        *text.header(document, paint, width),
        *(_headline(finding, paint, width) for finding in text.found(document)),
        "",
        *_processes(document["processes"], paint, width),
        *(["", *seen] if seen else []),
        "",
        *text.ledger(document, paint, width, LEDGER_ROWS),
    ]
    return lines[:height]


def _headline(finding: Mapping[str, Any], paint: Paint, width: int) -> str:
    subject = finding["task"] or finding["process_class"]
    wasted = f"  {finding['wasted_cores']:.2f} CPUs wasted" if finding["wasted_cores"] else ""
    sentence = f"{finding['severity'].upper()}  {finding['cause']}  {subject}{wasted}"
    return paint(text.SEVERITY_STYLES[finding["severity"]], plain(sentence)[:width])


def _processes(processes: Sequence[Mapping[str, Any]], paint: Paint, width: int) -> list[str]:
    """The busiest first; those that ended last."""
    ranked = sorted(
        processes, key=lambda process: (not process["alive"], -(process["cpu_cores"] or 0.0), process["pid"])
    )
    lines = [paint("dim", f"{'PID':>8}  {'class':<10}{'role':<8}{'CPUs now':>9}  {'started':<21}mode"[:width])]
    lines += [_process(process, paint, width) for process in ranked[:PROCESS_ROWS]]
    if len(ranked) > PROCESS_ROWS:
        lines.append(paint("dim", f"{'':>8}  and {len(ranked) - PROCESS_ROWS} more"))
    return lines


def _process(process: Mapping[str, Any], paint: Paint, width: int) -> str:
    cores = "?" if process["cpu_cores"] is None else f"{process['cpu_cores']:.2f}"
    name, role = shortened(process["process_class"], 9), shortened(process["role"], 7)
    line = (
        f"{process['pid']:>8}  {name:<10}{role:<8}{cores:>9}  {process['started_at']:<21}"
        f"{process['mode'] if process['alive'] else 'ended'}"
    )
    line = plain(line)[:width]
    return line if process["alive"] else paint("dim", line)
