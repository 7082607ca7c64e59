"""What findings claim is waste on the screen and in the document, counted once and never beyond what was used."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from taskwatt.observations import Outcome
from taskwatt.report.claims import claims
from taskwatt.report.shape import well_formed
from taskwatt.report.terminal import Paint
from taskwatt.report.text import ledger
from taskwatt.report.triage import document, merge
from taskwatt.rules import Finding
from taskwatt.windows import CoroutineWindow, HostWindow, TaskWindow, Window

HOST = HostWindow(effective_cpus=2, own_cpu=1.0, own_run_delay=0.0)


def window(rows: dict[tuple[str, Outcome, str], float], *coroutines: CoroutineWindow) -> Window:
    """Ten seconds; `rows` in CPU seconds."""
    total = sum(rows.values())
    return Window(
        10.0, "job", (), HOST, total, 0.0, cpu_unattributed=0.0, ledger=rows, coroutines=coroutines, rows=frozenset()
    )


def finding(cause: str, task: str, wasted: float) -> Finding:
    return Finding(cause, "found", "job", f"{task} wastes.", task=task, wasted_cores=wasted)


def told(over: Window, *findings: Finding) -> dict[str, Any]:
    return document(windows={10.0: over}, findings=findings, incidents=(), processes=())


def sums(one: dict[str, Any]) -> tuple[float, float, float]:
    return one["ledger"]["total_cores"], one["ledger"]["wasted_cores"], one["ledger"]["useful_ratio"]


def screen(one: dict[str, Any], width: int = 80) -> list[str]:
    """The lines up to the activities."""
    lines = ledger(one, Paint(False), width, 6)
    return lines[: next(place for place, line in enumerate(lines) if line.startswith("by activity"))]


CHAIN = window({("feed.refresh", "useful", "business"): 6.0, ("mail.send", "useful", "business"): 4.0})
AGAIN = finding("never_settles", "feed.refresh", 0.5)


def test_a_chain_whose_attempts_all_end_well_is_waste_by_its_finding() -> None:
    one = told(CHAIN, AGAIN)
    assert sums(one) == (1.0, 0.5, 0.5)
    assert one["ledger"]["claims"] == [
        {
            "cause": "never_settles",
            "task": "feed.refresh",
            "from_task": "feed.refresh",
            "from_outcome": "useful",
            "cores": 0.5,
        }
    ]
    assert [(row["task"], row["outcome"], row["cores"]) for row in one["ledger"]["rows"]] == [
        ("feed.refresh", "useful", 0.6),
        ("mail.send", "useful", 0.4),
    ]


def test_on_the_screen_the_claimed_part_of_a_row_is_a_line_of_its_own() -> None:
    assert screen(told(CHAIN, AGAIN)) == [
        "CPU by task and outcome                 CPUs  share",
        "feed.refresh          never_settles   0.50  50.0% ██████████ waste",
        "mail.send             useful          0.40  40.0% ████████",
        "feed.refresh          useful          0.10  10.0% ██",
        "(unattributed)                        0.00   0.0%",
    ]


def test_a_row_that_is_claimed_whole_is_not_called_useful() -> None:
    one = told(CHAIN, finding("never_settles", "feed.refresh", 0.5999))
    assert screen(one)[1:3] == [
        "feed.refresh          never_settles   0.60  60.0% ████████████ waste",
        "mail.send             useful          0.40  40.0% ████████",
    ]


def test_a_storm_whose_retries_are_waste_already_is_not_counted_twice() -> None:
    storm = window({("pay", "retried", "business"): 7.0, ("pay", "useful", "business"): 3.0})
    assert sums(told(storm, finding("retry_storm", "pay", 0.65))) == (1.0, 0.7, 0.3)
    assert claims(storm, [finding("retry_storm", "pay", 0.65)]) == []


def test_two_findings_of_one_task_claim_its_cpu_once() -> None:
    assert sums(told(CHAIN, AGAIN, finding("retry_storm", "feed.refresh", 0.4))) == (1.0, 0.5, 0.5)


def test_no_claim_takes_more_than_its_task_used() -> None:
    assert sums(told(CHAIN, finding("never_settles", "feed.refresh", 3.0))) == (1.0, 0.6, 0.4)


def test_findings_that_hold_no_longer_or_waste_no_cpu_claim_nothing() -> None:
    quiet = replace(AGAIN, verdict="clear")
    assert claims(CHAIN, [quiet, finding("loop_blocked", "mail.send", 0.0), finding("starved", "", 0.5)]) == []


SPIN = CoroutineWindow("shop.wait", steps=1_000, cpu_s=1.5, own_cpu_s=1.5)
SPINNING = window(
    {
        ("shop.wait", "useful", "business"): 1.5,
        ("asyncio.futures._set_result_unless_cancelled", "useful", "business"): 0.5,
        ("", "none", "framework"): 2.5,
        ("", "none", "agent"): 0.5,
    },
    SPIN,
)


def test_a_coroutine_that_spins_claims_the_turning_of_its_loop_too() -> None:
    one = told(SPINNING, finding("hot_loop", "shop.wait", 0.44))
    assert sums(one) == (0.5, 0.44, 0.0)
    assert screen(one) == [
        "CPU by task and outcome                 CPUs  share",
        "shop.wait             hot_loop        0.44  88.0% ██████████████████ waste",
        "(no task)             none            0.06  12.0% ██",
        "(unattributed)                        0.00   0.0%",
    ]


def test_the_agents_own_cpu_is_claimed_by_nobody() -> None:
    assert sums(told(SPINNING, finding("hot_loop", "shop.wait", 9.0))) == (0.5, 0.45, 0.0)


def test_a_rescan_claims_no_turning() -> None:
    assert sums(told(SPINNING, finding("rescan", "shop.wait", 9.0))) == (0.5, 0.15, 0.1)


def test_a_type_within_an_attempt_is_claimed_of_the_attempts_and_named_below_them() -> None:
    within = replace(
        window(
            {
                ("sync.tenant", "useful", "business"): 7.0,
                ("mail.send", "useful", "business"): 2.0,
                ("", "none", "framework"): 1.0,
            },
            CoroutineWindow("sync.drain", steps=1_000, cpu_s=1.5),
        ),
        tasks=(TaskWindow("sync.tenant", "job"), TaskWindow("mail.send", "job")),
    )
    one = told(within, finding("hot_loop", "sync.drain", 0.35))
    assert sums(one) == (1.0, 0.35, 0.55)
    assert screen(one)[-2:] == [
        "of these, sync.drain  hot_loop        0.35  35.0% ███████ waste",
        "(unattributed)                        0.00   0.0%",
    ]


def test_claims_of_two_agents_add_up() -> None:
    one = told(CHAIN, AGAIN)
    both = merge([one, one])
    assert sums(both) == (2.0, 1.0, 0.5)
    assert both["ledger"]["claims"] == [{**one["ledger"]["claims"][0], "cores": 1.0}]


def test_a_document_from_before_there_were_claims_is_still_one() -> None:
    now = told(CHAIN)
    older = json.loads(json.dumps(now))
    del older["ledger"]["claims"]
    assert well_formed(older)
    assert merge([older]) == now
    assert not well_formed({**now, "ledger": {**now["ledger"], "claims": [{"task": 1}]}})
