"""All rules together: every cause has its line, the worst first."""

from __future__ import annotations

from pathlib import Path

import taskwatt.rules
from taskwatt.rules import CAUSES, NOT_WATCHED, RULES, UNWATCHED, evaluate
from taskwatt.windows import HostWindow, TaskWindow, Window

HOST = HostWindow(effective_cpus=2, own_cpu=1.9, own_run_delay=0.1)
STORM = TaskWindow(
    "shop.charge",
    "worker",
    attempts={"retried": 900},
    firsts=90,
    cpu={"retried": 5.0},
    repeat_attempts=810,
    repeat_wasted_cpu=4.5,
    retry_delays=(0.0,) * 64,
)
LOOP = TaskWindow(
    "shop.poll",
    "worker",
    attempts={"useful": 3_000},
    firsts=3_000,
    cpu={"useful": 9.0},
    max_depth=3_000,
    self_published=3_000,
    repeated_args=3_000,
)
LOOPS = ("hot_loop", "polling", "rescan", "fan_out", "gil_contention", "loop_blocked")
WORK = TaskWindow("shop.render", "worker", attempts={"useful": 100}, firsts=100, cpu={"useful": 18.5})


def window(*tasks: TaskWindow) -> Window:
    return Window(10.0, "worker", tasks, HOST, cpu_total=19.0, cpu_none=0.1, cpu_unattributed=0.1)


def test_every_cause_has_a_line_whatever_happens() -> None:
    for tasks in ((), (WORK,), (STORM, LOOP)):
        assert {finding.cause for finding in evaluate({10.0: window(*tasks)})} == set(CAUSES)
    assert len(CAUSES) == len(set(CAUSES)) == 15


def test_findings_come_first_and_the_largest_waste_leads() -> None:
    lines = [(finding.verdict, finding.cause) for finding in evaluate({10.0: window(STORM, LOOP)})]
    assert lines == [
        ("found", "never_settles"),
        ("found", "retry_storm"),
        *(("clear", cause) for cause in LOOPS),
        ("clear", "oversubscription"),
        ("clear", "starved"),
        ("clear", "useful_compute"),
        *(("not_enough_data", cause) for cause in UNWATCHED),
    ]


def test_a_healthy_busy_worker_has_one_finding_and_it_is_good_news() -> None:
    found = [finding.cause for finding in evaluate({10.0: window(WORK)}) if finding.found]
    assert found == ["useful_compute"]


def test_causes_without_a_rule_say_so() -> None:
    lines = {finding.cause: finding.summary for finding in evaluate({10.0: window()})}
    assert {lines[cause] for cause in UNWATCHED} == {NOT_WATCHED}


def test_a_window_that_is_not_there_yet_is_not_enough_data() -> None:
    lines = {finding.cause: finding for finding in evaluate({60.0: window(STORM)})}
    assert {lines[rule.cause].verdict for rule in RULES} == {"not_enough_data"}
    assert lines["retry_storm"].summary == "No window of 10 s has been filled yet."


def test_no_window_at_all_gives_no_line() -> None:
    assert evaluate({}) == ()


def test_every_rule_module_is_registered() -> None:
    folder = Path(taskwatt.rules.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "finding", "statistics", "loop_share"}
    assert modules == {rule.cause for rule in RULES}
