"""What the agent said against what was true. Arithmetic only: see test_score.py."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median

from tests.faults.case import WATCHED, Expectation
from tests.faults.engine import Run
from tests.faults.verdicts import Opened

TOLERANCE = 0.10
"""Of wasted cores and of amplification."""

SETTLED_S = 1.0
"""After the onset, before a window may be compared: connections that were open, messages under way."""

CROWDED_CPUS = 0.2
"""CPUs that strangers took from a full machine, from which `starved` is true whatever the scenario is about."""

WRONG_CAUSE = 2
"""A false alarm beside a real fault sends people the wrong way, so it counts twice; on a healthy case, once."""

PLAIN_SHARE = 0.10
"""X of the baseline, the plain rule "retry rate > X"."""


@dataclass(frozen=True)
class Judgement:
    """Who was found, who was missed, who was accused."""

    hits: int
    misses: int
    false_alarms: int
    """Weighted."""
    wrong: tuple[tuple[str, str], ...]
    detection_s: float | None
    """From the onset to `opened_at` of what was expected."""


def judge(expectation: Expectation, incidents: Iterable[Opened], struck_ns: int, crowded: float) -> Judgement:
    tolerated = expectation.tolerated | ({"starved"} if crowded >= CROWDED_CPUS else set())
    first: dict[tuple[str, str], int] = {}
    for one in incidents:
        if one.at_ns >= struck_ns or (one.cause, one.task) not in expectation.expected:
            first.setdefault((one.cause, one.task), one.at_ns)
        else:
            first.setdefault((f"{one.cause} before its onset", one.task), one.at_ns)
    hits = expectation.expected & first.keys()
    wrong = sorted(key for key in first.keys() - expectation.expected if key[0] not in tolerated)
    weight = WRONG_CAUSE if expectation.cause else 1
    times = [(first[key] - struck_ns) / 1e9 for key in hits]
    return Judgement(
        len(hits), len(expectation.expected) - len(hits), weight * len(wrong), tuple(wrong), min(times, default=None)
    )


@dataclass(frozen=True)
class Result:
    """One case, scored."""

    name: str
    seed: int
    judgement: Judgement
    problems: tuple[str, ...] = ()
    """Why it failed, a sentence each."""
    wasted: tuple[float, float] | None = None
    """(said, true) cores."""
    amplification: tuple[float, float] | None = None
    code: str = ""
    """right, wrong, none; empty where no function is to be named."""
    plain: tuple[bool, bool] = (False, False)
    """(fires, ought to) of the plain rule."""
    skipped: str = ""
    crowded: float = 0.0
    """CPUs that strangers used of a full machine: above CROWDED_CPUS the figures are not the agent's alone."""

    @property
    def passed(self) -> bool:
        return not self.problems and not self.skipped


def error(pair: tuple[float, float]) -> float:
    """Relative, signed, of (said, true)."""
    said, true = pair
    return (said - true) / true if true else 0.0 if not said else float("inf")


def score(run: Run, twin: Run | None) -> Result:
    expectation = run.case.expectation
    judgement = judge(expectation, run.opened, run.struck_ns, run.kernel.crowded(niced=True))
    problems = [f"{cause} was opened for {task or 'the process'}" for cause, task in judgement.wrong]
    said = _numbers(run, twin) if expectation.cause else ((), None, None, "")
    problems += _silence(run, judgement) if not expectation.cause else said[0]
    if judgement.misses:
        problems.append(f"{expectation.cause} was not opened for {expectation.task or 'the process'}")
    seconds, limit = judgement.detection_s, expectation.within_s
    if seconds is not None and limit is not None and seconds > limit:
        problems.append(f"found after {seconds:.1f} s (limit {limit:g} s)")
    return Result(
        run.case.name,
        run.case.seed,
        judgement,
        tuple(problems),
        *said[1:],
        crowded=run.kernel.crowded(),
        plain=(run.notes.retry_rate_exceeds(PLAIN_SHARE), expectation.cause == "retry_storm"),
    )


def _numbers(
    run: Run, twin: Run | None
) -> tuple[tuple[str, ...], tuple[float, float] | None, tuple[float, float] | None, str]:
    """(problems, wasted, amplification, code) from the last document, whose window lies in the fault altogether."""
    expectation, document = run.case.expectation, run.documents[-1]
    finding = document.finding(expectation.cause, expectation.task)
    if finding is None:
        return (f"{expectation.cause} is not in the last document",), None, None, "none" * bool(expectation.function)
    problems: list[str] = []
    settled_ns = run.struck_ns + SETTLED_S * 1e9
    if expectation.wasted or expectation.amplification:
        assert document.from_ns >= settled_ns, "the case is too short to be measured"
    wasted = amplification = None
    if expectation.wasted and twin is not None:
        wasted = float(finding["wasted_cores"]), _wasted(run, twin, document.from_ns, document.to_ns)
        if abs(error(wasted)) > TOLERANCE:
            problems.append(f"wasted cores {wasted[0]:.3f}, true {wasted[1]:.3f} ({error(wasted):+.1%})")
    if expectation.amplification:
        evidence = {one["metric"]: one["value"] for one in finding["evidence"]}
        true = run.notes.amplification(expectation.task, document.from_ns, document.to_ns)
        amplification = float(evidence["amplification"]), true
        if abs(error(amplification)) > TOLERANCE:
            problems.append(f"amplification {amplification[0]:.2f}, true {true:.2f} ({error(amplification):+.1%})")
    code = ""
    if expectation.function:
        named = finding["code"]
        code = "none" if named is None else "right" if named["function"] == expectation.function else "wrong"
        if named is not None and code == "wrong":
            problems.append(f"{named['function']} is named, {expectation.function} burns")
    return tuple(problems), wasted, amplification, code


def _wasted(run: Run, twin: Run, from_ns: float, to_ns: float) -> float:
    """Cores: the kernel's CPU of the subject minus its twin's, over the spans in which they served the same arrivals.

    A storm that fills the worker gets to its arrivals later than its twin does. Over the same seconds the twin would
    have done more of the honest work, and the difference would hide as much of the waste.
    """
    spent = run.kernel.own(from_ns, to_ns) - twin.kernel.own(*(_in_twin(run, twin, at) for at in (from_ns, to_ns)))
    return spent / ((to_ns - from_ns) / 1e9)


def _in_twin(run: Run, twin: Run, at_ns: float) -> float:
    """The moment when the twin had served as many arrivals as `run` had at `at_ns`."""
    mine, others = run.notes.served(run.case.arrivals), twin.notes.served(twin.case.arrivals)
    served = bisect_right(mine, at_ns)
    if not 0 < served <= len(others):
        return at_ns - run.struck_ns + twin.struck_ns
    return at_ns - mine[served - 1] + others[served - 1]


def _silence(run: Run, judgement: Judgement) -> list[str]:
    """A healthy case must read `clear` in the end: silence and doubt are not health."""
    document = run.documents[-1]
    tolerated = run.case.expectation.tolerated
    if run.kernel.crowded(niced=True) >= CROWDED_CPUS:
        tolerated |= {"starved"}
    accused = {cause for cause, _ in judgement.wrong}
    return [
        f"{cause} reads {document.verdict(cause)}"
        for cause in sorted(WATCHED - accused)
        if document.verdict(cause) != "clear" and not (document.verdict(cause) == "found" and cause in tolerated)
    ]


@dataclass(frozen=True)
class Totals:
    precision: float
    recall: float
    detection_s: tuple[float, float]
    """p50, p95 (nearest rank)."""
    wasted_error: float
    """Median of the absolute ones."""
    amplification_error: float
    code: tuple[int, int, int]
    """right, wrong, none."""
    plain: tuple[float, float]
    """Precision and recall of the plain rule."""


def total(results: Sequence[Result]) -> Totals:
    hits = sum(one.judgement.hits for one in results)
    misses = sum(one.judgement.misses for one in results)
    alarms = sum(one.judgement.false_alarms for one in results)
    times = sorted(one.judgement.detection_s for one in results if one.judgement.detection_s is not None)
    codes = [one.code for one in results]
    fired = [ought for fires, ought in (one.plain for one in results) if fires]
    ought = [fires for fires, ought in (one.plain for one in results) if ought]
    return Totals(
        precision=_share(hits, hits + alarms),
        recall=_share(hits, hits + misses),
        detection_s=(percentile(times, 0.5), percentile(times, 0.95)),
        wasted_error=median([abs(error(one.wasted)) for one in results if one.wasted] or [0.0]),
        amplification_error=median([abs(error(one.amplification)) for one in results if one.amplification] or [0.0]),
        code=(codes.count("right"), codes.count("wrong"), codes.count("none")),
        plain=(_share(sum(fired), len(fired)), _share(sum(ought), len(ought))),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank; 0.0 for an empty sample."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0.0


def _share(part: int, whole: int) -> float:
    """1.0 of nothing: nobody was accused, nobody was missed."""
    return part / whole if whole else 1.0
