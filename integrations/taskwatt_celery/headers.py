"""What travels with a message besides Celery's own fields.

Flat primitives under names that Celery does not use: they survive retries on their own (Celery keeps unknown headers on
the request) and do not reach child tasks, which get theirs when they are published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

PUBLISHED: Final = "taskwatt_published"
"""Wall seconds when the message was handed to the broker; every publish overwrites it."""
PREVIOUS: Final = "taskwatt_previous"
"""Traceparent of the attempt before this one."""
DEPTH: Final = "taskwatt_depth"
"""How many generations of the same task name published each other before this message; left out when none did."""

_MOST: Final = 0xFFFFFFFF


Message: TypeAlias = tuple[str, bool, int, int, int, float, str | None]
"""Queue, redelivered, retries, nesting, depth, published (NaN when unknown), previous."""


def read(request: Mapping[str, Any]) -> Message:
    """What an attempt needs of its request when it begins; whatever a producer may have put there, it has these types.

    On the hot path, hence in one piece and without names of its own.
    """
    get = request.get
    info: Mapping[str, Any] | None = get("delivery_info")
    if not isinstance(info, dict):
        info = {}
    queue, redelivered = info.get("routing_key"), info.get("redelivered")
    retries, nesting, depth = get("retries"), get("replaced_task_nesting"), get(DEPTH)
    published, previous = get(PUBLISHED), get(PREVIOUS)
    return (
        queue if isinstance(queue, str) else "",
        bool(redelivered),
        _count(retries) if retries else 0,
        _count(nesting) if nesting else 0,
        _count(depth) if depth else 0,
        published if isinstance(published, float) else math.nan,
        previous if isinstance(previous, str) else None,
    )


def _count(value: object) -> int:
    return max(0, min(value, _MOST)) if isinstance(value, int) else 0


def deduplicated(result: tuple[Any, ...] | None) -> bool:
    """Did Celery skip a redelivered task that had already succeeded? Then no body ran and nothing was returned."""
    return isinstance(result, tuple) and len(result) == 3 and result[1] is None and result[2] is None
