"""The screen as a person sees it."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest

from taskwatt.report.live import WAITING, frame
from taskwatt.report.terminal import shortened_path, wants_color
from taskwatt.report.text import healthy, render
from taskwatt.report.triage import merge

ANSI = re.compile(r"\x1b\[[0-9;]*m")

STORM = """\
taskwatt · worker: 2 processes · 1.00 of 2 CPUs busy · 0.95 wasted · last 10 s
  not seen here: web, scheduler, job

CRITICAL  retry_storm (immediate) in worker
shop.charge retries without backing off: 1,130 of 1,210 attempts ended in a retry (93%, threshold
10%) after a median pause of 0 s (threshold 1 s), and repeats without success burn 0.91 of 2 CPUs
(threshold 0.02), most often in connect (shop/gateway.py:41).
  evidence                        measured   threshold        n
  attempts per arrival                15.1 > 1.1          1,210
  share of retries, at least           92% > 10%          1,210
  retries per second                 113.0 > 1.0          1,130
  median pause                         0 s < 1 s            256
  repeats that succeed                  0% < 20%          1,130
  wasted CPUs                         0.91 > 0.02         1,130
  code  connect  shop/gateway.py:41
  not   Backoff: nine in ten of 256 delays are at most 0 s (threshold 1 s).
  not   Retries that help: 0 of 1,130 repeats succeeded (0%, threshold 20%).
  next  Give the retry a delay that grows (autoretry_for with retry_backoff=True and
        retry_jitter=True, or countdown=2 ** self.request.retries), cap it with max_retries, and
        look at the dependency that fails.
  seen  confidence 0.99 · incident INCIDENT

CPU by task and outcome                                   CPUs  share
shop.charge                               retried         0.89  89.0% ██████████████████ waste
shop.charge                               failed          0.06   6.0% █ waste
shop.mail                                 useful          0.03   3.0% █
(no task)                                 none            0.01   1.0%
(unattributed)                                            0.01   1.0%
by activity: business 82.0% · framework 16.0% · serialization 1.0% · unattributed 1.0%

  found            retry_storm: shop.charge
  clear            never_settles: At most 0 generations (threshold 20) with 0% repeated arguments
                   (threshold 50%), and 0 attempts without an end (threshold 10).
  clear            hot_loop, polling, rescan, fan_out, gil_contention, loop_blocked: No event loop.
  clear            oversubscription: Own work asks for 1.10 CPUs where 2 may be used: 0.00 too many
                   (threshold 1.00).
  clear            starved: 0.10 of the 1.10 CPUs that were ours to use were withheld (threshold
                   0.28).
  clear            useful_compute: The load has another explanation: retry_storm.
  not enough data  serialization, native_threads, redelivery, backlog_growth: not watched yet
"""


def test_a_storm_fits_on_one_screen(storm: dict[str, Any]) -> None:
    incident = storm["findings"][0]["incident_id"]
    assert render(storm, color=False, width=100) == STORM.replace("INCIDENT", incident)
    assert STORM.count("\n") <= 40


def test_nothing_found_is_said_with_what_could_not_be_judged(idle: dict[str, Any]) -> None:
    lines = render(idle, color=False, width=100).splitlines()
    assert lines[1:3] == ["  not seen here: web, scheduler, job", ""]
    assert lines[3] == "Nothing found: 11 causes are clear, 4 could not be judged (below)."
    assert lines[-1].startswith("  not enough data  serialization, native_threads,")


def test_colour_changes_no_character(storm: dict[str, Any]) -> None:
    colored = render(storm, color=True, width=100)
    assert "\x1b[1;31mCRITICAL" in colored
    assert ANSI.sub("", colored) == render(storm, color=False, width=100)


@pytest.mark.parametrize("width", [72, 80, 100, 120])
def test_no_line_is_wider_than_the_terminal(storm: dict[str, Any], width: int) -> None:
    assert max(map(len, render(storm, color=False, width=width).splitlines())) <= width


def test_a_task_name_cannot_command_the_terminal(storm: dict[str, Any]) -> None:
    hostile = json.loads(json.dumps(storm).replace("shop.charge", "shop\\u001b]0;owned\\u0007\\n"))
    screen = render(hostile, color=False, width=100) + "\n".join(frame([hostile], color=False, width=100, height=99))
    assert "\x1b" not in screen
    assert "\x07" not in screen
    assert "shop?]0;owned??" in screen


def test_only_something_to_act_on_is_unhealthy(storm: dict[str, Any], idle: dict[str, Any]) -> None:
    busy = json.loads(json.dumps(idle))
    busy["findings"][-1] |= {"cause": "useful_compute", "verdict": "found"}
    assert (healthy(storm), healthy(idle), healthy(busy)) == (False, True, True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "color"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),
        (io.StringIO(), {}, False),
        (io.StringIO(), {"FORCE_COLOR": "1"}, True),
        (io.StringIO(), {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colour_is_the_users_choice(stream: io.StringIO, environ: dict[str, str], color: bool) -> None:
    assert wants_color(stream, environ) is color


def test_a_live_frame_shows_the_finding_the_processes_and_the_ledger(
    storm: dict[str, Any], idle: dict[str, Any]
) -> None:
    lines = frame([storm, idle], color=False, width=100, height=40)
    assert lines[:8] == [
        "taskwatt · worker: 4 processes · 1.01 of 2 CPUs busy · 0.95 wasted · last 10 s",
        "CRITICAL  retry_storm  shop.charge  0.91 CPUs wasted",
        "",
        "     PID  class     role     CPUs now  started              mode",
        "    4101  worker    child        0.80  2025-11-24T16:00:01Z records",
        "    5101  worker    child        0.80  2025-11-24T16:00:01Z records",
        "    4100  worker    main         0.20  2025-11-24T16:00:00Z records",
        "    5100  worker    main         0.20  2025-11-24T16:00:00Z records",
    ]


def test_a_live_frame_keeps_to_the_terminal(storm: dict[str, Any]) -> None:
    assert len(frame([storm], color=True, width=100, height=7)) == 7
    assert frame([], color=False, width=200, height=24) == [WAITING]


def test_a_hot_task_without_a_finding_has_its_line_in_the_ledger(storm: dict[str, Any]) -> None:
    seen = {"function": "render", "file": "shop/mail.py", "line": 7, "share": 0.5, "samples": 24, "missing": None}
    storm["ledger"]["code"].append({"task": "shop.mail", **seen})
    assert "  at render  shop/mail.py:7 (50% of 24 samples)" in render(storm, color=False, width=100).splitlines()


def test_a_line_of_code_in_a_deep_folder_is_told_with_its_number(storm: dict[str, Any]) -> None:
    file = "/srv/" + "deep/" * 20 + "mail.py"
    seen = {"function": "render", "file": file, "line": 7, "share": 0.5, "samples": 24, "missing": None}
    storm["ledger"]["code"].append({"task": "shop.mail", **seen})
    lines = render(storm, color=False, width=100).splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("  at render"))
    assert "".join(line.strip() for line in lines[first : first + 2]) == f"at render  {file}:7 (50% of 24 samples)"
    assert max(map(len, lines)) <= 100


def test_a_line_that_was_looked_for_in_vain_is_said_with_the_reason(storm: dict[str, Any]) -> None:
    seen = {"function": None, "file": None, "line": None, "share": None, "samples": 0, "missing": "no ptrace here"}
    storm["ledger"]["code"].append({"task": "shop.mail", **seen})
    assert "  at no ptrace here" in render(storm, color=False, width=100).splitlines()


WEB = """\
taskwatt · web, worker: 3 processes · 0.51 of 2 CPUs busy · 0.00 wasted · last 10 s
  web        1 process                  0.50 CPUs  nothing found
  worker     2 processes                0.01 CPUs  nothing found
  not seen here: scheduler, job

"""

LOOPS = """\
event loop                               busy   waits p50       p99  held up
MainThread (uvloop, pid 6100)             90%      0.5 ms    149 ms  31x: blocking 91%, GIL 9%
  longest: 750 ms in shop.serve at fetch  shop.py:7
Thread-1 (asyncio, pid 6100)               0%        0 ms      0 ms
  partly seen: protocol callbacks are not seen
  measured by pure Python: told so by TASKWATT_ACCELERATOR
"""


def test_loops_and_classes_are_told_each_on_its_line(web: dict[str, Any], idle: dict[str, Any]) -> None:
    text = render(merge([idle, web]), color=False, width=100)
    assert text.startswith(WEB)
    assert LOOPS in text


def test_what_held_a_loop_is_told_by_what_there_is_to_tell(web: dict[str, Any]) -> None:
    def column(**changed: Any) -> str:
        given = {**web["loops"][0], **changed}
        loop = {key: value for key, value in given.items() if value is not None}
        line = render({**web, "loops": [loop]}, color=False, width=100).split("MainThread")[1].splitlines()[0]
        return line.partition("149 ms")[2].strip()

    one = [{"cause": "own_cpu", "number": 5, "seconds": 0.75}]
    assert column(stalls=one) == "31x own CPU"
    assert column(stalls=[]) == "31x"
    assert column(stalls=[], slow_steps=0) == ""
    assert column(slow_steps=None, slow_s=None) == "8x: blocking 91%, GIL 9%"  # a document of before it was told


WHY_IN_PYTHON = (
    "pure Python: attempts (the accelerator was not taken: its compiled part cannot be loaded: /srv/shop/lib/"
    "python3.11/site-packages/taskwatt_fast/_attempts.cpython-311-x86_64-linux-gnu.so: undefined symbol)"
)


@pytest.mark.parametrize("width", [60, 100, 120])
def test_who_measures_is_told_to_the_end_of_the_sentence(web: dict[str, Any], width: int) -> None:
    web["carriers"] = [WHY_IN_PYTHON]
    lines = render(web, color=False, width=width).splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("  measured by "))
    told = lines[first : lines.index("", first)]
    assert "".join(told).replace(" ", "") == f"measured by {WHY_IN_PYTHON}".replace(" ", "")
    assert all(line.startswith("    ") for line in told[1:])


@pytest.mark.parametrize(
    ("width", "longest"),
    [
        (
            120,
            ["  longest: 750 ms in shop.serve at fetch  /srv/shop/lib/python3.11/site/redis/connection.py:481"],
        ),
        (80, ["  longest: 750 ms in shop.serve at fetch  …/site/redis/connection.py:481"]),
        (60, ["  longest: 750 ms in shop.serve at fetch", "    …/connection.py:481"]),
    ],
)
def test_the_line_that_held_a_loop_longest_keeps_its_file_and_number(
    web: dict[str, Any], width: int, longest: list[str]
) -> None:
    web["loops"][0]["worst"]["code"] |= {
        "file": "/srv/shop/lib/python3.11/site/redis/connection.py",
        "line": 481,
    }
    lines = render(web, color=False, width=width).splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("  longest: "))
    assert lines[first : first + len(longest)] == longest


@pytest.mark.parametrize(
    ("path", "columns", "short"),
    [
        ("shop.py:7", 3, "shop.py:7"),
        ("/srv/shop.py:7", 14, "/srv/shop.py:7"),
        ("/srv/shop.py:7", 13, "…/shop.py:7"),
        ("/srv/lib/shop.py:7", 15, "…/lib/shop.py:7"),
        ("a/b/\x1b/shop.py:7", 13, "…/?/shop.py:7"),
    ],
)
def test_a_path_is_shortened_folder_by_folder_from_its_front(path: str, columns: int, short: str) -> None:
    assert shortened_path(path, columns) == short


def test_a_class_that_has_ended_is_told_with_the_cpus_of_the_same_seconds(
    web: dict[str, Any], storm: dict[str, Any]
) -> None:
    """A process that has ended uses nothing now; the screen is about the seconds before."""
    for one in (web, storm):
        one["processes"] = [{**process, "alive": False, "cpu_cores": None} for process in one["processes"]]
        one.update(ended_at="2025-11-24T16:00:00Z", ended_s_ago=40.0)
    assert render(merge([web, storm]), color=False, width=80).splitlines()[:5] == [
        "taskwatt · web, worker: 3 processes ended 40 s ago, 16:00:00 UTC · 1.50 of 2",
        "  CPUs busy · 0.95 wasted · last 10 s before that",
        "Nothing that is watched runs now: all of this was so before the end.",
        "  web        1 process ended            0.50 CPUs  nothing found",
        "  worker     2 processes ended          1.00 CPUs  retry_storm",
    ]


def test_top_shows_loops_too(web: dict[str, Any]) -> None:
    assert LOOPS.splitlines() == [
        line for line in frame([web], color=False, width=100, height=40) if line in LOOPS.splitlines()
    ]


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_no_line_about_loops_is_wider_than_the_screen(web: dict[str, Any], width: int) -> None:
    lines = [*render(web, color=False, width=width).splitlines(), *frame([web], color=False, width=width, height=40)]
    assert [line for line in lines if len(line) > width] == []
