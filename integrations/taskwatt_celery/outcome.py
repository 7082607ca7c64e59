"""How an attempt ended: Celery's word for it, and the ledger's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Ignore, Reject, Retry

from taskwatt.observations import OUTCOMES, STATES
from taskwatt_celery import headers

if TYPE_CHECKING:
    from taskwatt_celery.running import Running

USEFUL, RETRIED, FAILED = OUTCOMES.index("useful"), OUTCOMES.index("retried"), OUTCOMES.index("failed")
DUPLICATE, CANCELLED, POLLING = OUTCOMES.index("duplicate"), OUTCOMES.index("cancelled"), OUTCOMES.index("polling")
SUCCESS, _RETRY, _FAILURE = STATES.index("SUCCESS"), STATES.index("RETRY"), STATES.index("FAILURE")
_IGNORED, _REJECTED, _REQUEUED = STATES.index("IGNORED"), STATES.index("REJECTED"), STATES.index("REQUEUED")

_POLLING_TASKS = frozenset({"celery.chord_unlock"})
"""Tasks whose RETRY means "not yet", not "failed"."""


def classify(error: BaseException | None, task: str) -> tuple[int, int]:
    """(outcome, state) of an attempt whose body ended with `error`, by the way Celery treats it."""
    if error is None:
        return USEFUL, SUCCESS
    if isinstance(error, Retry):
        return (POLLING if task in _POLLING_TASKS else RETRIED), _RETRY
    if isinstance(error, Ignore):
        return USEFUL, _IGNORED
    if isinstance(error, Reject):
        requeue = cast(Any, error).requeue  # celery's stubs leave it out
        return (RETRIED, _REQUEUED) if requeue else (FAILED, _REJECTED)
    if isinstance(error, (SoftTimeLimitExceeded, SystemExit, KeyboardInterrupt)):
        return CANCELLED, _FAILURE
    return FAILED, _FAILURE


def is_expected(error: BaseException, task: Any) -> bool:
    """Does the task's author count this exception as part of normal work? (`throws`; Celery then logs no error.)"""
    try:
        return isinstance(error, task.throws)
    except (AttributeError, TypeError):  # it is the user's: Celery says so itself
        return False


def outcome_of(run: Running, result: tuple[Any, ...] | None) -> tuple[int, int]:
    """(outcome, state) from the body's end and from what `fast_trace_task` returned.

    That is (1, error info, ...) or (0, repr, ...).
    """
    if run.body and run.error is not None:
        return classify(run.error, run.task_name)
    if isinstance(result, tuple) and len(result) > 1 and result[0] == 1:
        # The result could not be encoded or stored, or a time limit came right after the body, or there was no body.
        return classify(_reported(result[1]), run.task_name)
    if run.body:
        return USEFUL, SUCCESS
    if run.redelivered and headers.deduplicated(result):
        return DUPLICATE, SUCCESS
    return USEFUL, SUCCESS


def _reported(info: Any) -> BaseException:
    error = getattr(info, "exception", None)
    error = getattr(error, "exc", None) if isinstance(getattr(error, "exc", None), BaseException) else error
    return error if isinstance(error, BaseException) else RuntimeError()
