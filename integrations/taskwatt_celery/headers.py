"""What travels with a message besides Celery's own fields.

Flat primitives under names that Celery does not use: they survive retries on their own (Celery keeps unknown headers on
the request) and do not reach child tasks, which get theirs when they are published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

PUBLISHED: Final = "taskwatt_published"
"""Wall seconds when the message was handed to the broker; every publish overwrites it."""
PREVIOUS: Final = "taskwatt_previous"
"""Traceparent of the attempt before this one."""
DEPTH: Final = "taskwatt_depth"
"""How many generations of the same task name published each other before this message; left out when none did."""

_MOST: Final = 0xFFFFFFFF


class Message(NamedTuple):
    """What is read of a request when its attempt begins; whatever a producer may have put there, it has these types."""

    queue: str
    redelivered: bool
    retries: int
    nesting: int
    depth: int
    published: float
    """NaN when unknown."""
    previous: str | None


def read(request: Mapping[str, Any]) -> Message:
    """On the hot path, hence in one piece."""
    get = request.get
    found: object = get("delivery_info")
    info = cast(dict[str, Any], found) if isinstance(found, dict) else _NOTHING
    queue, retries, nesting, depth = info.get("routing_key"), get("retries"), get("replaced_task_nesting"), get(DEPTH)
    published, previous = get(PUBLISHED), get(PREVIOUS)
    return Message(
        queue if isinstance(queue, str) else "",
        bool(info.get("redelivered")),
        _count(retries) if retries else 0,
        _count(nesting) if nesting else 0,
        _count(depth) if depth else 0,
        published if isinstance(published, float) else math.nan,
        previous if isinstance(previous, str) else None,
    )


_NOTHING: Final[dict[str, Any]] = {}


def _count(value: object) -> int:
    return max(0, min(value, _MOST)) if isinstance(value, int) else 0


def deduplicated(result: tuple[Any, ...] | None) -> bool:
    """Did Celery skip a redelivered task that had already succeeded? Then no body ran and nothing was returned."""
    return isinstance(result, tuple) and len(result) == 3 and result[1] is None and result[2] is None
