"""Who is asked for the line of a hot task, when, and what becomes of the answers."""

from __future__ import annotations

from taskwatt.code_watch import CodeWatch
from taskwatt.drainer import Live
from taskwatt.observations import CodeSite
from taskwatt.windows import HostWindow, TaskWindow, Window

HOT = TaskWindow("shop.render", "worker", cpu={"pending": 9.0}, in_flight=1)
SPIN = CodeSite("shop.render", "spin", "shop.py", 7, 0.9, 20)


def window(*tasks: TaskWindow) -> Window:
    host = HostWindow(effective_cpus=2, own_cpu=1.0, own_run_delay=0.0)
    return Window(10.0, "worker", tasks, host, cpu_total=9.0, cpu_none=0.0, cpu_unattributed=0.0)


class Asked:
    """Counts the questions; probes by a list of prepared answers."""

    def __init__(self, *probed: CodeSite | str) -> None:
        self.questions = 0
        self.probes: list[tuple[int, str]] = []
        self._probed = list(probed)
        self.watch = CodeWatch(self._ask, self._probe)

    def tick(self, now: float, answers: list[CodeSite], running_s: float = 1.0) -> None:
        self.watch.note(answers, now)
        self.watch.look(now, window(HOT), [Live(7, "worker", HOT.task, 9.0, running_s)], {7: 1.0})
        if self.watch._probing is not None:
            self.watch._probing.join()

    def _ask(self, until_ns: int) -> None:
        self.questions += 1

    def _probe(self, pid: int, task: str) -> CodeSite | str:
        self.probes.append((pid, task))
        return self._probed.pop(0)


def test_a_hot_task_is_asked_for_once_and_again_after_a_minute() -> None:
    asked = Asked()
    for second in range(62):
        asked.tick(second, [SPIN] if second >= 2 else [])
    assert (asked.questions, asked.watch.sites) == (1, {"shop.render": SPIN})
    asked.tick(62, [SPIN])
    assert asked.questions == 2


def test_without_an_answer_the_question_is_repeated_ever_more_rarely_and_nothing_is_claimed() -> None:
    asked = Asked()
    seen = []
    for second in range(62):
        before = asked.questions
        asked.tick(second, [])
        seen += [second] if asked.questions > before else []
    assert (seen, asked.watch.sites) == ([0, 4, 12, 28, 60], {})


def test_a_cool_task_is_not_asked_for() -> None:
    asked = Asked()
    asked.watch.look(1.0, window(TaskWindow("shop.mail", "worker", cpu={"useful": 0.4})), [], {})
    assert asked.questions == 0


def test_of_several_children_the_line_most_often_seen_is_kept() -> None:
    asked = Asked()
    rare = CodeSite("shop.render", "sort", "shop.py", 40, 0.5, 8)
    asked.tick(0, [])
    asked.tick(1, [SPIN])
    asked.tick(2, [SPIN, rare])
    assert asked.watch.sites["shop.render"]._replace(samples=0, weight=0) == SPIN._replace(samples=0, weight=0)


def test_an_attempt_that_does_not_return_is_looked_at_from_outside() -> None:
    asked = Asked(SPIN)
    asked.tick(1, [], running_s=4.0)
    assert asked.probes == []
    asked.tick(2, [], running_s=6.0)
    asked.tick(3, [], running_s=7.0)
    assert (asked.probes, asked.watch.sites) == ([(7, "shop.render")], {"shop.render": SPIN})


def test_a_look_in_vain_is_kept_as_a_reason_until_a_line_is_known() -> None:
    asked = Asked("the system does not permit it")
    asked.tick(1, [], running_s=6.0)
    asked.tick(2, [], running_s=7.0)
    assert asked.watch.missing == {"shop.render": "the system does not permit it"}
    asked.tick(3, [SPIN], running_s=8.0)
    assert (asked.watch.sites, asked.watch.missing) == ({"shop.render": SPIN}, {})
