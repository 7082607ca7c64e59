"""What travels with a message besides Celery's own fields.

Flat primitives under names that Celery does not use: they survive retries on their own (Celery keeps unknown headers on
the request) and do not reach child tasks, which get theirs when they are published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

PUBLISHED: Final = "taskwatt_published"
"""Wall seconds when the message was handed to the broker; every publish overwrites it."""
FIRST_PUBLISHED: Final = "taskwatt_first_published"
"""Wall seconds of the first publish of this logical id; kept by retries."""
PREVIOUS: Final = "taskwatt_previous"
"""Traceparent of the attempt before this one."""
DEPTH: Final = "taskwatt_depth"
"""How many generations of the same task name published each other before this message."""


def published(request: Mapping[str, Any]) -> float | None:
    value = request.get(PUBLISHED)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def previous(request: Mapping[str, Any]) -> str | None:
    value = request.get(PREVIOUS)
    return value if isinstance(value, str) else None


def depth(request: Mapping[str, Any]) -> int:
    value = request.get(DEPTH)
    return min(value, 0xFFFFFFFF) if isinstance(value, int) and value > 0 else 0


def deduplicated(result: tuple[Any, ...] | None) -> bool:
    """Did Celery skip a redelivered task that had already succeeded? Then no body ran and nothing was returned."""
    return isinstance(result, tuple) and len(result) == 3 and result[1] is None and result[2] is None
