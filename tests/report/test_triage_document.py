"""The shape that scripts rely on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from taskwatt.incidents import Incident
from taskwatt.report.shape import well_formed
from taskwatt.report.triage import SCHEMA, document, merge
from taskwatt.rules import CAUSES, NOT_WATCHED, retry_storm


def test_the_document_holds_exactly_the_contracts_keys(storm: dict[str, Any]) -> None:
    sections = [
        "schema",
        "window_s",
        "host",
        "processes",
        "ledger",
        "findings",
        "classes",
        "loops",
        "carriers",
        "ended_at",
        "ended_s_ago",
    ]
    assert list(storm) == sections
    assert {tuple(finding) for finding in storm["findings"]} == {
        (
            "cause",
            "subtype",
            "verdict",
            "severity",
            "process_class",
            "task",
            "wasted_cores",
            "confidence",
            "summary",
            "evidence",
            "ruled_out",
            "next_step",
            "code",
            "incident_id",
        )
    }
    assert json.loads(json.dumps(storm, allow_nan=False)) == storm


def test_a_finding_is_told_in_full(storm: dict[str, Any], incident: Incident) -> None:
    assert storm["findings"][0] == {
        "cause": "retry_storm",
        "subtype": "immediate",
        "verdict": "found",
        "severity": "critical",
        "process_class": "worker",
        "task": "shop.charge",
        "wasted_cores": 0.91,
        "confidence": 0.986738,
        "summary": (
            "shop.charge retries without backing off: 1,130 of 1,210 attempts ended in a retry (93%, threshold 10%) "
            "after a median pause of 0 s (threshold 1 s), and repeats without success burn 0.91 of 2 CPUs "
            "(threshold 0.02), most often in connect (shop/gateway.py:41)."
        ),
        "evidence": [
            {"metric": "amplification", "value": 15.125, "threshold": 1.1, "n": 1210},
            {"metric": "retry_share", "value": 0.918465, "threshold": 0.1, "n": 1210},
            {"metric": "retries_per_s", "value": 113.0, "threshold": 1.0, "n": 1130},
            {"metric": "median_retry_delay_s", "value": 0.0, "threshold": 1.0, "n": 256},
            {"metric": "repeat_success_share", "value": 0.0, "threshold": 0.2, "n": 1130},
            {"metric": "wasted_cores", "value": 0.91, "threshold": 0.02, "n": 1130},
        ],
        "ruled_out": [
            "Backoff: nine in ten of 256 delays are at most 0 s (threshold 1 s).",
            "Retries that help: 0 of 1,130 repeats succeeded (0%, threshold 20%).",
        ],
        "next_step": retry_storm.NEXT_STEP,
        "code": {"function": "connect", "file": "shop/gateway.py", "line": 41},
        "incident_id": incident.id,
    }


def test_a_cause_that_is_not_watched_has_its_line(storm: dict[str, Any]) -> None:
    assert {finding["cause"] for finding in storm["findings"]} == set(CAUSES)
    assert storm["findings"][-1] == {
        "cause": "backlog_growth",
        "subtype": None,
        "verdict": "not_enough_data",
        "severity": None,
        "process_class": "worker",
        "task": None,
        "wasted_cores": 0.0,
        "confidence": 0.0,
        "summary": NOT_WATCHED,
        "evidence": [],
        "ruled_out": [],
        "next_step": None,
        "code": None,
        "incident_id": None,
    }


def test_host_processes_and_ledger_are_told(storm: dict[str, Any]) -> None:
    assert (storm["schema"], storm["window_s"]) == (SCHEMA, 10.0)
    assert storm["host"] == {
        "effective_cpus": 2,
        "own_cpu": 1.0,
        "own_run_delay": 0.1,
        "throttled_ratio": None,
        "steal_ratio": None,
    }
    assert storm["processes"][0] == {
        "pid": 4100,
        "process_class": "worker",
        "role": "main",
        "cpu_cores": 0.2,
        "mode": "records",
        "alive": True,
        "started_at": "2025-11-24T16:00:00Z",
    }
    ledger = storm["ledger"]
    assert {key: ledger[key] for key in ledger if key != "rows"} == {
        "total_cores": 1.0,
        "wasted_cores": 0.95,
        "useful_ratio": 0.03,
        "unattributed_ratio": 0.01,
        "claims": [],
        "code": [
            {
                "task": "shop.charge",
                "function": "connect",
                "file": "shop/gateway.py",
                "line": 41,
                "share": 0.87,
                "samples": 42,
                "missing": None,
            }
        ],
    }
    assert ledger["rows"][0] == {
        "task": "shop.charge",
        "outcome": "retried",
        "activity": "business",
        "cpu_s": 7.4,
        "cores": 0.74,
    }


def test_an_agent_without_a_window_yet_still_has_a_document() -> None:
    assert document(windows={}, findings=(), incidents=(), processes=()) == {
        "schema": SCHEMA,
        "window_s": 0.0,
        "host": {},
        "processes": [],
        "ledger": {
            "total_cores": 0.0,
            "wasted_cores": 0.0,
            "useful_ratio": 0.0,
            "unattributed_ratio": 0.0,
            "rows": [],
            "claims": [],
            "code": [],
        },
        "findings": [],
        "classes": [not_seen(name) for name in ("web", "worker", "scheduler", "job")],
        "loops": [],
        "carriers": [],
        "ended_at": None,
        "ended_s_ago": None,
    }


def test_two_workers_add_up(storm: dict[str, Any], idle: dict[str, Any]) -> None:
    merged = merge([idle, storm])
    assert list(merged) == list(storm)
    assert [process["pid"] for process in merged["processes"]] == [5100, 5101, 4100, 4101]
    assert merged["host"]["effective_cpus"] == 2
    assert merged["host"]["own_cpu"] == pytest.approx(1.01)
    assert merged["ledger"]["total_cores"] == pytest.approx(1.01)
    assert merged["ledger"]["useful_ratio"] == pytest.approx(0.03 / 1.01, abs=1e-6)
    assert merged["ledger"]["rows"] == storm["ledger"]["rows"]
    causes = [finding["cause"] for finding in merged["findings"]]
    assert sorted(causes) == sorted(CAUSES)
    assert merged["findings"][0] == storm["findings"][0]


def test_two_workers_with_the_same_storm_keep_both_findings_and_join_the_ledger(storm: dict[str, Any]) -> None:
    merged = merge([storm, storm])
    assert [finding["cause"] for finding in merged["findings"]].count("retry_storm") == 2
    assert merged["ledger"]["rows"][0]["cpu_s"] == pytest.approx(14.8)


def test_a_cause_that_one_worker_could_not_judge_is_not_clear(idle: dict[str, Any]) -> None:
    blind = json.loads(json.dumps(idle))
    for finding in blind["findings"]:
        finding["verdict"] = "not_enough_data"
    assert {finding["verdict"] for finding in merge([idle, blind])["findings"]} == {"not_enough_data"}


def test_nothing_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="no document"):
        merge([])


def not_seen(name: str) -> dict[str, Any]:
    return {"process_class": name, "alive": 0, "ended": 0, "cpu_cores": 0.0, "verdict": "not_seen", "causes": []}


def test_each_class_has_its_line_and_one_that_is_not_here_is_not_called_well(
    storm: dict[str, Any], idle: dict[str, Any], web: dict[str, Any]
) -> None:
    here = {"alive": 4, "ended": 0, "cpu_cores": 1.01, "verdict": "found", "causes": ["retry_storm"]}
    serving = {"alive": 1, "ended": 0, "cpu_cores": 0.5, "verdict": "clear", "causes": []}
    assert merge([storm, idle, web])["classes"] == [
        {"process_class": "web", **serving},
        {"process_class": "worker", **here},
        not_seen("scheduler"),
        not_seen("job"),
    ]


def test_an_agent_of_two_classes_tells_them_apart_by_their_newest_second(storm: dict[str, Any]) -> None:
    storm["processes"][1]["process_class"] = "job"
    cores = {one["process_class"]: one["cpu_cores"] for one in merge([storm])["classes"]}
    assert cores == {"web": 0.0, "worker": 0.2, "scheduler": 0.0, "job": 0.8}


def test_loops_are_told_with_what_held_them_up(web: dict[str, Any]) -> None:
    assert web["loops"] == [
        {
            "pid": 6100,
            "process_class": "web",
            "name": "MainThread",
            "kind": "uvloop",
            "utilization": 0.9,
            "delay_p50_s": 0.0005,
            "delay_p99_s": 0.149,
            "ready_p95": 1.0,
            "slow_steps": 31,
            "slow_s": 11.5,
            "stalls": [
                {"cause": "blocking", "number": 7, "seconds": 2.5},
                {"cause": "gil", "number": 1, "seconds": 0.25},
            ],
            "worst": {
                "task": "shop.serve",
                "cause": "blocking",
                "duration_s": 0.75,
                "code": {"function": "fetch", "file": "shop.py", "line": 7},
            },
            "partial": "protocol callbacks are not seen",
        },
        {
            "pid": 6100,
            "process_class": "web",
            "name": "Thread-1",
            "kind": "asyncio",
            "utilization": 0.0,
            "delay_p50_s": 0.0,
            "delay_p99_s": 0.0,
            "ready_p95": 0.0,
            "slow_steps": 0,
            "slow_s": 0.0,
            "stalls": [],
            "worst": None,
            "partial": None,
        },
    ]
    assert web["carriers"] == ["pure Python: told so by TASKWATT_ACCELERATOR"]


def test_loops_of_several_agents_stand_side_by_side_busiest_first(web: dict[str, Any], idle: dict[str, Any]) -> None:
    merged = merge([idle, web, web])
    assert [loop["utilization"] for loop in merged["loops"]] == [0.9, 0.9, 0.0, 0.0]
    assert merged["carriers"] == web["carriers"]


def test_a_document_from_before_there_were_loops_is_still_one(idle: dict[str, Any], web: dict[str, Any]) -> None:
    older = {key: idle[key] for key in ("schema", "window_s", "host", "processes", "ledger", "findings")}
    assert well_formed(older)
    assert merge([older]) == idle
    assert merge([older, web])["loops"] == web["loops"]
    loop = {key: value for key, value in web["loops"][0].items() if key not in ("slow_steps", "slow_s")}
    assert well_formed({**web, "loops": [loop]})
    assert not well_formed({**web, "loops": [{**loop, "slow_steps": "many"}]})


@pytest.mark.parametrize(
    "wrong", [{"loops": [{}]}, {"loops": None}, {"carriers": [1]}, {"loops": ["MainThread"]}, {"ended_at": "x"}]
)
def test_what_came_later_makes_no_document_in_another_shape(web: dict[str, Any], wrong: dict[str, Any]) -> None:
    assert well_formed(web)
    assert not well_formed(web | wrong)
