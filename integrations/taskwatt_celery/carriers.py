"""Which of the two measures this worker's attempts: the accelerator in C, or pure Python.

The accelerator is taken where it is installed and was built for this interpreter and this version of taskwatt; the
figures are the same. Decided when Celery is imported; one line in a worker's log says which and why, and so does
`taskwatt triage`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from taskwatt.accelerator import unusable
from taskwatt_celery.attempt import Recorder

log = logging.getLogger("taskwatt")

IN_C: Final = "C: plain attempts (the accelerator, taskwatt-fast)"
IN_PYTHON: Final = "pure Python: attempts"


class _Choice(NamedTuple):
    recorders: type[Recorder]
    timed: Callable[..., Any] | None
    sentence: str


_chosen: list[_Choice] = []
_said: set[str] = set()


def recorders() -> type[Recorder]:
    """The class whose instances measure."""
    return _choice().recorders


def timed() -> Callable[..., Any] | None:
    """What measures an encoder in C; None: `taskwatt.meter.timed` does."""
    return _choice().timed


def say() -> None:
    """Once in a process and its children."""
    if sentence() not in _said:
        _said.add(sentence())
        log.info("taskwatt measures tasks with %s", sentence())


def sentence() -> str:
    """Which one, and why."""
    return _choice().sentence


def forget() -> None:
    """Decide anew when somebody asks next."""
    _chosen.clear()


def _choice() -> _Choice:
    if not _chosen:
        _chosen.append(_choose())
    return _chosen[0]


def _choose() -> _Choice:
    try:
        chosen, refused = _accelerated()
        if chosen is not None:
            return chosen
    except Exception as error:
        log.warning("taskwatt's accelerator of attempts failed and is off: %r", error, exc_info=error)
        refused = f"the accelerator failed: {error!r}"
    return _Choice(Recorder, None, f"{IN_PYTHON} ({refused})")


def _accelerated() -> tuple[_Choice | None, str]:
    """The accelerator's; or why it is not taken."""
    why = unusable()
    if why:
        return None, why
    from taskwatt_celery.accelerated import accelerated, timed_in_c
    from taskwatt_fast import Refused

    try:
        return _Choice(accelerated(), timed_in_c(), IN_C), ""
    except Refused as refusal:
        return None, f"the accelerator was not taken: {refusal}"
