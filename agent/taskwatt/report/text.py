"""The screen for 3 a.m.: the diagnosis first, then its numbers, then where the CPU went, then what is not the matter.

Every function turns a part of the triage document into lines; none knows where they are written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from taskwatt.observations import WASTED_OUTCOMES
from taskwatt.report.loop_text import class_lines, loop_lines
from taskwatt.report.terminal import Paint, plain, shortened, wrapped
from taskwatt.report.triage import Document

LEDGER_ROWS = 6
"""Task and outcome pairs shown; the rest is one line."""

BAR, FIGURES, NAME = 20, 39, 20
"""Columns of a ledger line: the bar at its widest, the figures beside it, the name at its narrowest."""
_UNSEEN = 0.0005
"""Shares below are printed as 0.0 %."""

SEVERITY_STYLES: Mapping[str, str] = {"critical": "alarm", "warning": "yellow", "info": "cyan"}
HEALTHY_CAUSE = "useful_compute"

OVER = "Nothing that is watched runs now: all of this was so before the end."
SILENT = "Nothing is heard of it any more (it is stopped, or gets no CPU): all of this was so before."

METRICS: Mapping[str, tuple[str, str]] = {
    "amplification": ("attempts per arrival", "{:.1f}"),
    "retry_share": ("share of retries, at least", "{:.0%}"),
    "retries_per_s": ("retries per second", "{:.1f}"),
    "median_retry_delay_s": ("median pause", "{:.2g} s"),
    "retry_delay_growth": ("growth of the pause, at most", "{:.2f}x"),
    "repeat_success_share": ("repeats that succeed", "{:.0%}"),
    "wasted_cores": ("wasted CPUs", "{:.2f}"),
    "depth": ("generations", "{:.0f}"),
    "repeated_args_share": ("repeated arguments, at least", "{:.0%}"),
    "unsettled_attempts": ("attempts without an end", "{:.0f}"),
    "deaths": ("processes that died of one message", "{:.0f}"),
    "own_excess": ("CPUs asked for beyond E", "{:.2f}"),
    "demand": ("CPUs asked for", "{:.2f}"),
    "run_delay_per_cpu": ("waiting per CPU second", "{:.2f}"),
    "shortfall": ("CPUs withheld", "{:.2f}"),
    "throttled_ratio": ("periods throttled", "{:.0%}"),
    "steal_ratio": ("time stolen", "{:.1%}"),
    "total_cores": ("busy CPUs", "{:.2f}"),
    "useful_ratio": ("useful share", "{:.0%}"),
    "self_wake_share": ("steps after a bare yield", "{:.0%}"),
    "steps_per_end": ("steps to an end", "{:,.0f}"),
    "cpu_per_step_us": ("CPU of a step", "{:,.0f} us"),
    "connecting_share": ("met while connecting", "{:.0%}"),
    "runs_per_s": ("runs per second", "{:,.0f}"),
    "at_end_share": ("with nothing to read", "{:.0%}"),
    "short_wait_share": ("waits of 50 ms at the most", "{:.0%}"),
    "empty_wait_share": ("met in an empty wait", "{:.0%}"),
    "wakes_per_s": ("wakes per second", "{:,.0f}"),
    "scanning_share": ("met in asyncio.wait", "{:.0%}"),
    "pending": ("pending tasks", "{:,.0f}"),
    "cost_slope": ("growth with tasks, power", "{:.2f}"),
    "cost_fit": ("fit of the growth (R2)", "{:.2f}"),
    "ready_max": ("ready at once, at most", "{:,.0f}"),
    "flooded_share": ("time with > 1,000 ready", "{:.1%}"),
    "started": ("tasks started", "{:,.0f}"),
    "lag_p99_s": ("wait of 1 arrival in 100", "{:.2g} s"),
    "lag_p95_s": ("wait of 1 arrival in 20", "{:.2g} s"),
    "interpreter_late_ms": ("wait for the interpreter", "{:.1f} ms"),
    "loops_waiting": ("loops waiting in a step", "{:.2f}"),
    "threads_cpus": ("CPUs of threads beside it", "{:.2f}"),
    "stalls": ("steps that held the loop", "{:,.0f}"),
    "utilization": ("time the loop is busy", "{:.0%}"),
    "loop_cpus": ("CPUs of the loop's thread", "{:.2f}"),
}
"""How a metric of the evidence is called and written for people; others appear under their own name."""


def found(document: Document) -> list[dict[str, Any]]:
    """The findings that hold, as ranked; useful compute, which is good news, last."""
    held = [finding for finding in document["findings"] if finding["verdict"] == "found"]
    return sorted(held, key=lambda finding: finding["cause"] == HEALTHY_CAUSE)


def healthy(document: Document) -> bool:
    """Is there nothing to act on?"""
    return all(finding["cause"] == HEALTHY_CAUSE for finding in found(document))


def render(document: Document, *, color: bool, width: int) -> str:
    """The whole screen; ends with a newline."""
    paint = Paint(color)
    held = found(document)
    lines = [*header(document, paint, width), *class_lines(document["classes"], paint, width), ""]
    if not held:
        lines += [paint("green", line) for line in wrapped(_nothing_found(document), width)] + [""]
    for finding in held:
        lines += [*_diagnosis(finding, paint, width), ""]
    seen = loop_lines(document["loops"], document["carriers"], paint, width)
    lines += [*seen, ""] if seen else []
    lines += [*ledger(document, paint, width, LEDGER_ROWS), "", *_causes(document, paint, width)]
    return "\n".join(lines) + "\n"


def header(document: Document, paint: Paint, width: int) -> list[str]:
    """What was looked at, for how long, and how busy it was: one line where it fits. One more for what has ended."""
    sums, processes = document["ledger"], document["processes"]
    alive = sum(process["alive"] for process in processes)
    ended = len(processes) - alive
    classes = ", ".join(sorted({process["process_class"] for process in processes})) or "nothing"
    over, at = document["ended_at"] is not None, document["ended_at"] or ""
    when = f"{_ago(document['ended_s_ago'])}, {at[11:19]} UTC" if over else ""
    number = ended if over and not alive else alive
    who = f"{classes}: {number} process{'' if number == 1 else 'es'}"
    who += f" and {ended} ended" if ended and alive else ""
    parts = [
        f"{who} {'last heard of' if alive else 'ended'} {when}" if over else who,
        f"{sums['total_cores']:.2f} of {document['host'].get('effective_cpus') or 0:g} CPUs busy",
        f"{sums['wasted_cores']:.2f} wasted",
        f"last {document['window_s']:.0f} s" + (" before that" if over else ""),
    ]
    first, *rest = wrapped(" · ".join(["taskwatt", *parts]), width, indent="  ")
    lines = [paint("bold", first[:8]) + paint("dim", first[8:]), *(paint("dim", line) for line in rest)]
    said = "" if not over else SILENT if alive else OVER
    return lines + [paint("yellow", line) for line in wrapped(said, width) if line]


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s ago" if seconds < 90 else f"{seconds / 60:.0f} min ago"


def ledger(document: Document, paint: Paint, width: int, most: int) -> list[str]:
    """CPU by task and outcome, the largest first, then by activity. Both sum to the kernel's figure.

    What a finding claims has its cause for an outcome, and the name that the finding gives it.
    """
    sums = document["ledger"]
    total = sums["total_cores"]
    if not total:
        return [paint("dim", "No CPU was used in the window.")]
    activities: dict[str, float] = defaultdict(float)
    for row in sums["rows"]:
        activities[row["activity"]] += row["cores"]
    unattributed = sums["unattributed_ratio"] * total
    if abs(unattributed) < _UNSEEN * total:  # clocks are not read at one moment; nobody wants to read of minus nothing
        unattributed = 0.0
    name = max(NAME, width - BAR - FIGURES)
    bar = max(0, min(BAR, width - name - FIGURES))
    lines = [paint("dim", f"{'CPU by task and outcome':<{name}} {'':<14}{'CPUs':>6} {'share':>6}")]
    said = {finding["task"] for finding in found(document) if finding["code"]}
    code = {each["task"]: each for each in sums["code"] if each["task"] not in said}
    ranked = _ranked(sums)
    for task, outcome, cores, wasted in ranked[:most]:
        lines.append(_ledger_line(task or "(no task)", outcome, cores, total, wasted, name, bar, paint))
        if task in code:
            lines += [paint("dim", line) for line in wrapped(f"  at {_hot_code(code.pop(task))}", width, "     ")]
    rest = sum(cores for _, _, cores, _ in ranked[most:])
    if rest:
        lines.append(_ledger_line(f"({len(ranked) - most} more)", "", rest, total, False, name, bar, paint))
    for each in sums["claims"]:
        if each["from_task"] is None:
            inside = f"of these, {shortened(each['task'], name - 10)}"
            lines.append(_ledger_line(inside, each["cause"], each["cores"], total, True, name, bar, paint))
    if "unattributed" not in activities:
        lines.append(_ledger_line("(unattributed)", "", unattributed, total, False, name, bar, paint))
        activities["unattributed"] = unattributed
    return lines + _activities(activities, total, paint, width)


def _ranked(sums: Mapping[str, Any]) -> list[tuple[str, str, float, bool]]:
    """(task, outcome or cause, CPUs, is it waste?); they sum to the rows. A rest that nobody could read is no line."""
    pairs: dict[tuple[str, str], float] = defaultdict(float)
    claimed: dict[tuple[str, str], float] = defaultdict(float)
    for row in sums["rows"]:
        pairs[row["task"], row["outcome"]] += row["cores"]
    for each in sums["claims"]:
        place = each["from_task"], each["from_outcome"]
        if place in pairs:
            rest = pairs[place] - each["cores"]
            seen = rest >= _UNSEEN * sums["total_cores"]
            pairs[place] = rest if seen else 0.0
            claimed[each["task"], each["cause"]] += each["cores"] if seen else each["cores"] + rest
    rows = [(task, outcome, cores, outcome in WASTED_OUTCOMES) for (task, outcome), cores in pairs.items() if cores]
    rows += [(task, cause, cores, True) for (task, cause), cores in claimed.items()]
    return sorted(rows, key=lambda row: -row[2])


def _hot_code(code: Mapping[str, Any]) -> str:
    """Where a task type burns, or why that is not known."""
    return code["missing"] or f"{_code_line(code)} ({code['share'] or 0.0:.0%} of {code['samples']} samples)"


def _activities(activities: Mapping[str, float], total: float, paint: Paint, width: int) -> list[str]:
    ranked = sorted(activities.items(), key=lambda pair: -pair[1])
    shares = [f"{activity} {cores / total:.1%}" for activity, cores in ranked]
    return [paint("dim", line) for line in wrapped("by activity: " + " · ".join(shares), width, "             ")]


def _ledger_line(
    task: str, outcome: str, cores: float, total: float, wasted: bool, name: int, columns: int, paint: Paint
) -> str:
    share = cores / total
    bar = "█" * max(0, min(columns, round(share * columns)))
    style = "red" if wasted else "green" if outcome == "useful" else "dim"
    mark = paint("red", " waste") if wasted else ""
    return (
        f"{shortened(task, name):<{name}} {paint(style, f'{outcome:<13}')} {cores:>6.2f} {share:>6.1%} "
        f"{paint(style, bar)}{mark}"
    ).rstrip()


def _nothing_found(document: Document) -> str:
    verdicts = [finding["verdict"] for finding in document["findings"]]
    clear, unknown = verdicts.count("clear"), verdicts.count("not_enough_data")
    return f"Nothing found: {clear} causes are clear, {unknown} could not be judged (below)."


def _diagnosis(finding: Mapping[str, Any], paint: Paint, width: int) -> list[str]:
    style = SEVERITY_STYLES[finding["severity"]]
    subtype = f" ({finding['subtype']})" if finding["subtype"] else ""
    title = f"{finding['severity'].upper()}  {finding['cause']}{subtype} in {finding['process_class']}"
    return [
        paint(style, plain(title)),
        *(paint("bold", line) for line in wrapped(finding["summary"], width)),
        *_evidence(finding["evidence"], paint, width),
        *_labelled("code", _code_line(finding["code"]), paint, width),
        *(line for each in finding["ruled_out"] for line in _labelled("not", each, paint, width)),
        *_labelled("next", finding["next_step"] or "", paint, width),
        *_labelled("seen", _seen(finding), paint, width),
    ]


def _evidence(evidence: Sequence[Mapping[str, Any]], paint: Paint, width: int) -> list[str]:
    if not evidence:
        return []
    lines = [paint("dim", f"  {'evidence':<30}{'measured':>10}   {'threshold':<9}{'n':>9}")]
    for each in evidence:
        label, form = METRICS.get(each["metric"], (each["metric"], "{:.3g}"))
        value, threshold = (_formatted(form, each[key]) for key in ("value", "threshold"))
        relation = _relation(each["value"], each["threshold"])
        lines.append(f"  {plain(label):<30}{value:>10} {relation} {threshold:<9}{each['n']:>9,}"[:width])
    return lines


def _formatted(form: str, value: float | None) -> str:
    return "?" if value is None else form.format(value)


def _relation(value: float | None, threshold: float | None) -> str:
    """On which side of its threshold a value is: for a finding, the side that counts."""
    if value is None or threshold is None:
        return " "
    return ">" if value > threshold else "<" if value < threshold else "="


def _code_line(code: Mapping[str, Any] | None) -> str:
    return "" if code is None else f"{code['function']}  {code['file']}:{code['line']}"


def _seen(finding: Mapping[str, Any]) -> str:
    incident = finding["incident_id"]
    return f"confidence {finding['confidence']:.2f} · " + (
        f"incident {incident}" if incident else "not yet an incident"
    )


def _causes(document: Document, paint: Paint, width: int) -> list[str]:
    """Every cause has its line; those that say the same share one."""
    lines: list[str] = []
    for verdict, label, style in (
        ("found", "found", "alarm"),
        ("clear", "clear", "green"),
        ("not_enough_data", "not enough data", "yellow"),
    ):
        said: dict[str, list[str]] = defaultdict(list)
        for finding in document["findings"]:
            if finding["verdict"] == verdict:
                said[finding["task"] or "" if verdict == "found" else finding["summary"]].append(finding["cause"])
        for summary, causes in said.items():
            names = ", ".join(dict.fromkeys(causes))
            text = f"{names}: {summary}" if summary else names
            lines += _labelled(label, text, paint, width, column=19, style=style)
    return lines


def _labelled(label: str, text: str, paint: Paint, width: int, *, column: int = 8, style: str = "dim") -> list[str]:
    """`text` wrapped beside a label; nothing for an empty text."""
    if not text:
        return []
    first, *rest = wrapped(text, width - column)
    margin = " " * column
    return [f"  {paint(style, f'{label:<{column - 2}}')}{first}", *(margin + line for line in rest)]
