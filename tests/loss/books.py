"""Two books of one story: what the tasks wrote down themselves, and what a receiver was told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import wait_for
from tests.support.receiver import Receiver

AttemptKey = tuple[str, int]
"""Task id and number of the attempt, from 1."""


@dataclass(frozen=True)
class Truth:
    """The file that the tasks of tests/loss/app.py append to."""

    path: Path

    @property
    def began(self) -> set[AttemptKey]:
        return {(task_id, int(number)) for word, task_id, number, _ in self._lines() if word == "began"}

    @property
    def finished(self) -> set[AttemptKey]:
        return {(task_id, int(number)) for word, task_id, number, _ in self._lines() if word == "finished"}

    @property
    def pids(self) -> set[int]:
        return {int(pid) for _, _, _, pid in self._lines()}

    def wait_for_finished(self, count: int, seconds: float = 60.0) -> None:
        wait_for(lambda: len(self.finished) >= count, seconds, f"{count} finished attempts")

    def _lines(self) -> list[list[str]]:
        text = self.path.read_text() if self.path.exists() else ""
        return [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]


@dataclass(frozen=True)
class Told:
    """What arrived at a receiver about attempts."""

    receiver: Receiver

    @property
    def spans(self) -> Counter[AttemptKey]:
        """How many *different* spans each attempt has: a repeated one has the same ids."""
        return Counter(
            (str(span.attributes["messaging.message.id"]), int(span.attributes["taskwatt.task.attempt"]))
            for span in self.receiver.spans
            if span.name.startswith("run/")
        )

    @property
    def killed(self) -> Counter[AttemptKey]:
        """Those of them that ended with their process."""
        return Counter(
            (str(span.attributes["messaging.message.id"]), int(span.attributes["taskwatt.task.attempt"]))
            for span in self.receiver.spans
            if span.name.startswith("run/") and span.attributes["taskwatt.task.outcome"] == "cancelled"
        )

    @property
    def counted(self) -> int:
        """`celery.task.attempts` as a backend adds it up.

        A counter that starts anew, as that of a restarted worker does, adds to what was accepted before.
        """
        newest: dict[tuple[object, ...], float] = {}
        for export in list(self.receiver.metric_exports):
            for metric in export:
                if metric.name == "celery.task.attempts":
                    for point in metric.points:
                        instance = metric.resource.get("service.instance.id")
                        newest[instance, point.start_ns, tuple(sorted(point.attributes.items()))] = point.value
        return int(sum(newest.values()))

    @property
    def dropped(self) -> dict[str, float]:
        metric = self.receiver.metric("taskwatt.agent.dropped")
        return {point.attributes["reason"]: point.value for point in metric.points} if metric is not None else {}


def nothing_is_lost(truth: Truth, told: Told, begun: int | None = None, seconds: float = 30.0) -> None:
    """Every attempt that began has one span and was counted once, whatever ended it.

    `begun`: how many there must have been at least, so that an empty story does not pass.
    """
    expected = truth.began
    assert truth.finished <= expected
    assert len(expected) >= (1 if begun is None else begun)
    wait_for(lambda: told.spans.keys() >= expected, seconds, "a span of every attempt")
    wait_for(lambda: told.counted >= told.spans.total(), seconds, "a count of every attempt")
    spans, killed = told.spans, told.killed
    # An attempt may be killed after it was noted and before its first line ran: told, and never written down. Celery
    # then hands the same message to another process, whose attempt has a span of its own.
    assert {key: count for key, count in spans.items() if count - killed[key] > 1} == {}
    assert spans.total() - len(expected) <= len(truth.pids)
    assert told.counted == spans.total()
