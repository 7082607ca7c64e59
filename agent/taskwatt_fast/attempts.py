"""Measures plain attempts of Celery tasks in C: methods for the class of recorders, or `Refused`.

It shares nothing with the hooks of event loops but the package: a worker without a loop loads only this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from taskwatt_fast.compiled import loaded
from taskwatt_fast.refusal import Refused


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the part in C must know of the program that it is put into."""

    parts: dict[str, Any]
    """Classes whose slots it reads, and what it calls, by the names in attempts.h."""
    layout: tuple[int, ...]
    """Numbers of a segment; they have to be those that it was built for."""
    described: str
    """The formats and names of a segment's fields; the same holds."""
    provider_named: bool
    """Does the environment name a tracer provider?"""
    waited_s: float
    threads_min_s: float
    subprocess_min_s: float
    hook_every: int
    useful: int
    success: int
    """Outcome and state of an attempt that ended well."""


def compiled() -> Any:
    """What measures attempts, as `taskwatt_fast.compiled.loaded`."""
    return loaded("taskwatt_fast._attempts")


def methods(recorders: type, surroundings: Surroundings) -> Mapping[str, Any]:
    """`begin`, `enter_body`, `leave_body` and `end_plainly` for this class, which has the slots of its base alone.

    Refused when something is not as it was when the part in C was written; nothing was changed then.
    """
    part = compiled()
    try:
        part.prepare(**{field.name: getattr(surroundings, field.name) for field in fields(surroundings)})
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from error
    found: Mapping[str, Any] = part.methods(recorders)
    return found
