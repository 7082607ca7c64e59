"""Bugs the agent does not have, put into a running worker: each replaces one internal by a function that raises."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskwatt_celery.attempt import Recorder


class MeantToBreak(Exception):
    """Raised where the agent is broken on purpose."""


def _raise(*_: Any, **__: Any) -> Any:
    raise MeantToBreak("broken on purpose")


def _begin() -> None:
    _recorders().begin = _raise  # type: ignore[method-assign]


def _end() -> None:
    _recorders().end_plainly = _raise  # type: ignore[method-assign]


def _body_start() -> None:
    _recorders().enter_body = _raise  # type: ignore[method-assign]


def _recorders() -> type[Recorder]:
    """Of this process: those of the accelerator, where it is taken."""
    from taskwatt_celery import carriers

    return carriers.recorders()


def _publish() -> None:
    from taskwatt_celery.publish import Publishing

    Publishing._begin = _raise  # type: ignore[method-assign]


def _published() -> None:
    from taskwatt_celery.publish import Publishing

    Publishing._finish = _raise  # type: ignore[method-assign]


def _child() -> None:
    from taskwatt.runtime import Runtime

    Runtime.become_child = _raise  # type: ignore[method-assign]


def _main() -> None:
    from taskwatt.runtime import Runtime

    Runtime.become_owner = _raise  # type: ignore[method-assign]


def _agent() -> None:
    from taskwatt.agent import Agent

    Agent.start = _raise  # type: ignore[method-assign]


def _tick() -> None:
    from taskwatt.agent import Agent

    Agent.tick = _raise  # type: ignore[method-assign]


def _drain() -> None:
    from taskwatt.segments.reader import SegmentReader

    SegmentReader.drain = _raise  # type: ignore[method-assign]


def _export() -> None:
    from taskwatt.export.pipeline import Pipeline

    Pipeline._send_spans = _raise  # type: ignore[method-assign]


def _received() -> None:
    from taskwatt_celery.worker import Worker

    Worker._note_received = _raise  # type: ignore[method-assign]


def _reaping() -> None:
    from taskwatt.drainer import Death

    Death.__new__ = _raise  # type: ignore[method-assign]


def _limit_in(task: str, name: str) -> None:
    """Let a soft time limit arrive when this method has just been called, in the first attempt of one task."""
    kind = _recorders()
    original, hits = getattr(kind, name), iter([True])

    def interrupted(self: Any, *args: Any) -> Any:
        subjects = [getattr(one, "task_name", one) for one in (*args, self.running)]
        if f"tests.{task}" in subjects and next(hits, False):
            signal.raise_signal(signal.SIGUSR1)
        return original(self, *args)

    setattr(kind, name, interrupted)


LIMITS: dict[str, str] = {
    "limit_in_begin": "begin",
    "limit_in_end": "end_plainly",
    "limit_in_enter_body": "enter_body",
    "limit_in_leave_body": "leave_body",
}
"""Where the soft time limit of a task may hit the agent."""

PARTS: dict[str, Callable[[], None]] = {
    "begin": _begin,
    "end": _end,
    "body": _body_start,
    "publish": _publish,
    "published": _published,
    "child": _child,
    "main": _main,
    "agent": _agent,
    "tick": _tick,
    "drain": _drain,
    "export": _export,
    "received": _received,
    "reaping": _reaping,
}


def apply(parts: str) -> None:
    for part in filter(None, parts.split(",")):
        if part in LIMITS:
            _limit_in(part, LIMITS[part])
        else:
            PARTS[part]()
