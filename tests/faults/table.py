"""The score, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tests.faults.score import CROWDED_CPUS, PLAIN_SHARE, Result, Totals, error, total

HEADER = f"{'case':<28}{'seed':>6}  {'found in':>8}  {'wasted cores':>22}  {'amplification':>20}  {'line':<5}  result"


def row(result: Result) -> str:
    seconds = result.judgement.detection_s
    found = "-" if seconds is None else f"{seconds:.1f} s"
    end = f"skipped: {result.skipped}" if result.skipped else "; ".join(result.problems) or "ok"
    if result.crowded >= CROWDED_CPUS:
        end += f" (strangers used {result.crowded:.1f} CPUs)"
    wasted, amplification = _pair(result.wasted), _pair(result.amplification)
    return f"{result.name:<28}{result.seed:>6}  {found:>8}  {wasted:>22}  {amplification:>20}  {result.code:<5}  {end}"


def _pair(pair: tuple[float, float] | None) -> str:
    return "" if pair is None else f"{pair[0]:.3g} / {pair[1]:.3g} ({error(pair):+.1%})"


def summary(results: Sequence[Result]) -> str:
    run = [one for one in results if not one.skipped]
    totals = total(run)
    lines = [f"{'':28}{'precision':>10}{'recall':>10}{'p50':>9}{'p95':>9}"]
    lines += [_line(name, total(mine)) for name, mine in _by_scenario(run).items()]
    plain = f"plain rule: retries > {PLAIN_SHARE:.0%}"
    lines += [
        _line("all", totals),
        f"{plain:<28}{totals.plain[0]:>10.2f}{totals.plain[1]:>10.2f}        (for retry_storm)",
        "",
        f"wasted CPU: median error {totals.wasted_error:.1%}; amplification: {totals.amplification_error:.1%}; "
        "line: {} right, {} wrong, {} not named".format(*totals.code),
        "",
        f"{sum(one.passed for one in run)} passed, {sum(not one.passed for one in run)} failed"
        + (f", {len(results) - len(run)} skipped" if len(run) < len(results) else ""),
    ]
    return "\n".join(lines)


def _by_scenario(results: Sequence[Result]) -> dict[str, list[Result]]:
    """A bug and its twin belong together."""
    found: dict[str, list[Result]] = {}
    for one in results:
        found.setdefault(one.name.removesuffix(" twin"), []).append(one)
    return found


def _line(name: str, totals: Totals) -> str:
    p50, p95 = totals.detection_s
    times = f"{p50:>7.1f} s{p95:>7.1f} s" if p95 else ""
    return f"{name:<28}{totals.precision:>10.2f}{totals.recall:>10.2f}{times}"


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    cases = [{**asdict(one), "passed": one.passed} for one in results]
    return {"cases": cases, "totals": asdict(total([one for one in results if not one.skipped]))}
