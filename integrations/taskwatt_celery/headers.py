"""What travels with a message besides Celery's own fields.

Flat primitives under names that Celery does not use: they survive retries on their own (Celery keeps unknown headers on
the request) and do not reach child tasks, which get theirs when they are published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

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
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def previous(request: Mapping[str, Any]) -> str | None:
    value = request.get(PREVIOUS)
    return value if isinstance(value, str) else None


def depth(request: Mapping[str, Any]) -> int:
    return count(request, DEPTH, 0xFFFFFFFF)


def count(request: Mapping[str, Any], name: str, most: int) -> int:
    """A counter of the message, within 0 and `most`; 0 for anything else that a producer may have put there."""
    value = request.get(name)
    return max(0, min(value, most)) if isinstance(value, int) else 0


def routing_key(request: Mapping[str, Any]) -> str:
    value = _delivery(request).get("routing_key")
    return value if isinstance(value, str) else ""


def redelivered(request: Mapping[str, Any]) -> bool:
    return bool(_delivery(request).get("redelivered"))


def _delivery(request: Mapping[str, Any]) -> Mapping[str, Any]:
    value = request.get("delivery_info")
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else {}


def deduplicated(result: tuple[Any, ...] | None) -> bool:
    """Did Celery skip a redelivered task that had already succeeded? Then no body ran and nothing was returned."""
    return isinstance(result, tuple) and len(result) == 3 and result[1] is None and result[2] is None
