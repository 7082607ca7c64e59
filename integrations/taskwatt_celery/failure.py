"""What is told about an exception that ended an attempt: never the task's arguments."""

from __future__ import annotations

import traceback

from celery.exceptions import MaxRetriesExceededError

_MESSAGE_MAX = 500
_STACKTRACE_MAX = 8192


def kind(error: BaseException) -> str:
    """The qualified name of its type, as OpenTelemetry writes it."""
    found = type(error)
    return found.__qualname__ if found.__module__ == "builtins" else f"{found.__module__}.{found.__qualname__}"


def message(error: BaseException) -> str:
    """Its text; empty when its own `__str__` fails."""
    return _without_arguments(error, _text(error))[:_MESSAGE_MAX]


def stacktrace(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    told = _text(error)
    return text.replace(told, _without_arguments(error, told))[-_STACKTRACE_MAX:] if told else text[-_STACKTRACE_MAX:]


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # it is the user's code
        return ""


def _without_arguments(error: BaseException, text: str) -> str:
    """Celery's "Can't retry tests.noop[id] args:(...) kwargs:{...}" repeats what the task was called with."""
    return text.partition(" args:")[0] if isinstance(error, MaxRetriesExceededError) else text
