"""The triage document: everything known about one agent's last seconds, as plain JSON-ready data.

Its shape is a public contract ("taskwatt.triage/1"). `document` builds one, `merge` joins those of a machine's agents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from taskwatt.incidents import Incident, fingerprint, severity
from taskwatt.observations import WASTED_OUTCOMES, CodeSite, Outcome, ProcessClass
from taskwatt.report.claims import claims, merged
from taskwatt.report.loops import classes, loops
from taskwatt.rules import Evidence, Finding
from taskwatt.windows import HostWindow, TaskWindow, Window

Document: TypeAlias = dict[str, Any]

SCHEMA = "taskwatt.triage/1"
KEYS = ("schema", "window_s", "host", "processes", "ledger", "findings")
"""What every document of the schema has; the other keys came later."""
LEDGER_WINDOW_S = 10.0
"""The window that the ledger is shown over; the shortest one there is when the agent keeps no such window."""

_VERDICTS = ("found", "not_enough_data", "clear")
"""Which line speaks for a cause when agents differ: a cause that one of them could not judge is not clear."""


@dataclass(frozen=True, slots=True)
class ProcessDescription:
    """One process as the agent knows it."""

    pid: int
    process_class: ProcessClass
    role: str
    """main, child, or single."""
    cpu_cores: float | None
    mode: str
    """Which of the three modes makes its spans."""
    alive: bool
    started_at_ns: int


def document(
    *,
    windows: Mapping[float, Window],
    findings: Sequence[Finding],
    incidents: Sequence[Incident],
    processes: Sequence[ProcessDescription],
    carriers: Sequence[str] = (),
) -> Document:
    """What one agent knows now. `incidents` are the open ones; `windows` may still be empty.

    `carriers`: how the steps of event loops, and attempts, are measured, as sentences.
    """
    window = windows.get(LEDGER_WINDOW_S) or (windows[min(windows)] if windows else None)
    identifiers = {incident.fingerprint: incident.id for incident in incidents if incident.state != "resolved"}
    effective = window.host.effective_cpus if window else 0.0
    told: Document = {
        "schema": SCHEMA,
        "window_s": _number(window.seconds if window else 0.0),
        "host": _host(window.host) if window else {},
        "processes": [_process(process) for process in processes],
        "ledger": _ledger(window, findings),
        "findings": [_finding(finding, effective, identifiers.get(fingerprint(finding))) for finding in findings],
    }
    pid = processes[0].pid if len(processes) == 1 else None
    return {
        **told,
        "classes": classes([told]),
        "loops": loops(window.loops, window.process_class, pid) if window else [],
        "carriers": list(carriers),
        "ended_at": None,
        "ended_s_ago": None,
    }


def merge(documents: Sequence[Document]) -> Document:
    """One document for several agents of one machine. Raises ValueError when there is none.

    Cores, processes and ledger rows add up; findings and event loops stand side by side; a cause that nobody found
    keeps one line.
    """
    if not documents:
        raise ValueError("no document to merge")
    everywhere: dict[str, Any] = {
        "classes": classes(documents),
        "loops": [loop for each in documents for loop in each.get("loops", ())],
        "carriers": sorted({carrier for each in documents for carrier in each.get("carriers", ())}),
        **_end(documents),
    }
    if len(documents) == 1:
        (one,) = documents
        ledger = {**one["ledger"], "claims": one["ledger"].get("claims", [])}
        return {key: one[key] for key in KEYS} | {"ledger": ledger} | everywhere
    everywhere["loops"].sort(key=_busy, reverse=True)
    return {
        "schema": SCHEMA,
        "window_s": max(each["window_s"] for each in documents),
        "host": _merged_host([each["host"] for each in documents if each["host"]]),
        "processes": [process for each in documents for process in each["processes"]],
        "ledger": _merged_ledger([each["ledger"] for each in documents]),
        "findings": _merged_findings([finding for each in documents for finding in each["findings"]]),
        **everywhere,
    }


def _end(documents: Sequence[Document]) -> dict[str, Any]:
    """That of the last one; None while one runs. An agent never writes it: `freshness` knows."""
    ends = [(each.get("ended_s_ago"), each.get("ended_at")) for each in documents]
    running = any(at is None for _, at in ends)
    ago, at = (None, None) if running else min(ends)
    return {"ended_at": at, "ended_s_ago": ago}


def _busy(loop: Mapping[str, Any]) -> float:
    return float(loop["utilization"])


def _finding(finding: Finding, effective_cpus: float, incident_id: str | None) -> dict[str, Any]:
    return {
        "cause": finding.cause,
        "subtype": finding.subtype or None,
        "verdict": finding.verdict,
        "severity": severity(finding, effective_cpus) if finding.found else None,
        "process_class": finding.process_class,
        "task": finding.task or None,
        "wasted_cores": _number(finding.wasted_cores),
        "confidence": _number(finding.confidence),
        "summary": finding.summary,
        "evidence": [_evidence(evidence) for evidence in finding.evidence],
        "ruled_out": list(finding.ruled_out),
        "next_step": finding.next_step or None,
        "code": _code(finding.code),
        "incident_id": incident_id if finding.found else None,
    }


def _evidence(evidence: Evidence) -> dict[str, Any]:
    value, threshold = _number(evidence.value), _number(evidence.threshold)
    return {"metric": evidence.metric, "value": value, "threshold": threshold, "n": evidence.n}


def _code(code: CodeSite | None) -> dict[str, Any] | None:
    return None if code is None else {"function": code.function, "file": code.file, "line": code.line}


def _host(host: HostWindow) -> dict[str, float | None]:
    return {
        "effective_cpus": _number(host.effective_cpus),
        "own_cpu": _number(host.own_cpu),
        "own_run_delay": _number(host.own_run_delay),
        "throttled_ratio": _number(host.throttled_ratio),
        "steal_ratio": _number(host.steal_ratio),
    }


def _process(process: ProcessDescription) -> dict[str, Any]:
    started = datetime.fromtimestamp(process.started_at_ns / 1e9, UTC).isoformat(timespec="seconds")
    return {
        "pid": process.pid,
        "process_class": process.process_class,
        "role": process.role,
        "cpu_cores": _number(process.cpu_cores),
        "mode": process.mode,
        "alive": process.alive,
        "started_at": started.replace("+00:00", "Z"),
    }


def _ledger(window: Window | None, findings: Sequence[Finding]) -> dict[str, Any]:
    """What findings claim counts as wasted, whatever its outcome; the rows tell outcomes and nothing else."""
    if window is None or not window.seconds:
        return _ledger_of(0.0, 0.0, 0.0, 0.0, [], [], [])
    rows = [
        _row(task, outcome, activity, cpu_s, cpu_s / window.seconds)
        for (task, outcome, activity), cpu_s in window.ledger.items()
    ]
    claimed = claims(window, findings)
    useful, wasted = _cores(window, frozenset({"useful"})), _cores(window, WASTED_OUTCOMES)
    wasted += math.fsum(each["cores"] for each in claimed)
    useful -= math.fsum(each["cores"] for each in claimed if each["from_outcome"] in ("useful", None))
    total = window.total_cores
    return _ledger_of(
        total,
        wasted,
        max(0.0, useful) / total if total else 0.0,
        window.cpu_unattributed / window.cpu_total if window.cpu_total else 0.0,
        rows,
        claimed,
        [_hot_code(task) for task in window.tasks if task.code is not None or task.code_missing],
    )


def _cores(window: Window, outcomes: frozenset[Outcome]) -> float:
    return math.fsum(cpu_s for (_, outcome, _), cpu_s in window.ledger.items() if outcome in outcomes) / window.seconds


def _row(task: str, outcome: str, activity: str, cpu_s: float, cores: float) -> dict[str, Any]:
    numbers = {"cpu_s": _number(cpu_s), "cores": _number(cores)}
    return {"task": task, "outcome": outcome, "activity": activity, **numbers}


def _hot_code(task: TaskWindow) -> dict[str, Any]:
    """Where a task type was seen on CPU most often; `missing` is why that is not known although it was looked for."""
    site = task.code
    if site is None:
        seen: dict[str, Any] = {"function": None, "file": None, "line": None, "share": None, "samples": 0}
        return {"task": task.task, **seen, "missing": task.code_missing}
    seen = {"function": site.function, "file": site.file, "line": site.line}
    return {"task": task.task, **seen, "share": _number(site.weight), "samples": site.samples, "missing": None}


def _ledger_of(
    total: float,
    wasted: float,
    useful: float,
    unattributed: float,
    rows: list[dict[str, Any]],
    claimed: list[dict[str, Any]],
    code: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "total_cores": _number(total),
        "wasted_cores": _number(wasted),
        "useful_ratio": _number(useful),
        "unattributed_ratio": _number(unattributed),
        "rows": sorted(rows, key=lambda row: (-row["cpu_s"], row["task"], row["outcome"], row["activity"])),
        "claims": claimed,
        "code": code,
    }


def _merged_host(hosts: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Own figures add up over the agents; the machine's own are the largest that one of them met."""
    added = {key: _total([host[key] for host in hosts]) for key in ("own_cpu", "own_run_delay")}
    largest = {key: _largest([host[key] for host in hosts]) for key in ("throttled_ratio", "steal_ratio")}
    return {"effective_cpus": _largest([host["effective_cpus"] for host in hosts]), **added, **largest} if hosts else {}


def _merged_ledger(ledgers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in (row for ledger in ledgers for row in ledger["rows"]):
        key = (row["task"], row["outcome"], row["activity"])
        before = rows.get(key)
        cpu_s, cores = row["cpu_s"], row["cores"]
        rows[key] = _row(*key, cpu_s + before["cpu_s"], cores + before["cores"]) if before else dict(row)
    total = sum(ledger["total_cores"] for ledger in ledgers)

    def weighted(ratio: str) -> float:
        return sum(ledger[ratio] * ledger["total_cores"] for ledger in ledgers) / total if total else 0.0

    wasted = sum(ledger["wasted_cores"] for ledger in ledgers)
    code = sorted((each for ledger in ledgers for each in ledger["code"]), key=_samples)
    most_seen = {each["task"]: each for each in code}
    ratios = weighted("useful_ratio"), weighted("unattributed_ratio")
    claimed = merged([each for ledger in ledgers for each in ledger.get("claims", ())])
    return _ledger_of(total, wasted, *ratios, list(rows.values()), claimed, list(most_seen.values()))


def _samples(code: Mapping[str, Any]) -> int:
    return int(code["samples"])


def _merged_findings(findings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found = sorted((each for each in findings if each["verdict"] == "found"), key=lambda each: -each["wasted_cores"])
    quiet: dict[str, dict[str, Any]] = {}
    for finding in sorted(findings, key=lambda each: _VERDICTS.index(each["verdict"])):
        quiet.setdefault(finding["cause"], finding)
    lines = [finding for finding in quiet.values() if finding["verdict"] != "found"]
    return found + sorted(lines, key=lambda each: each["verdict"])


def _total(values: Sequence[float | None]) -> float | None:
    """None where one of them is unknown: a part is not the whole."""
    known = [value for value in values if value is not None]
    return _number(math.fsum(known)) if len(known) == len(values) else None


def _largest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _number(value: float | None) -> Any:
    """Six decimals say all that a clock tick can; JSON knows neither infinity nor NaN, so those become null."""
    return None if value is None or not math.isfinite(value) else round(value, 6)
