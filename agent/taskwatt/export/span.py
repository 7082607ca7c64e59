"""The light span that is current during an attempt when nobody else traces it.

It keeps what user code and other instrumentations set on it, within OpenTelemetry's usual bounds, until the attempt
ends and the record carries it away. It is never exported from the executing process.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping
from typing import Any, TypeAlias

from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, Status, StatusCode, TraceFlags
from opentelemetry.util import types

Ids: TypeAlias = tuple[bytes, bytes]
"""Trace and span."""

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED = TraceFlags(TraceFlags.DEFAULT)
_MAX_ITEMS = 128
_MAX_TEXT = 2048
"""Characters of one value; backends cut there as well."""
_INT64 = 1 << 63


def span_context(ids: Ids, flags: TraceFlags, *, remote: bool = False) -> SpanContext:
    return SpanContext(int.from_bytes(ids[0], "big"), int.from_bytes(ids[1], "big"), remote, flags)


class Kept:
    """What was set on a span."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.status: tuple[int, str | None] | None = None
        self.links: list[tuple[str, str, dict[str, Any]]] = []
        self.attributes: dict[str, Any] = {}
        self.events: list[tuple[str, int, dict[str, Any]]] = []


class RecordedSpan(Span):
    """Records attributes, events, links, status and name; `end` is the attempt's, so it does nothing here."""

    __slots__ = ("_context", "kept")

    def __init__(self, context: SpanContext | Ids) -> None:
        """Ids alone become a sampled context when somebody asks for it, which is seldom."""
        self._context = context
        self.kept: Kept | None = None
        """None as long as nothing was set, as on most spans."""

    def _keep(self) -> Kept:
        if self.kept is None:
            self.kept = Kept()
        return self.kept

    def end(self, end_time: int | None = None) -> None:
        """The attempt ends its span."""

    def get_span_context(self) -> SpanContext:
        if not isinstance(self._context, SpanContext):
            self._context = span_context(self._context, _SAMPLED)
        return self._context

    def is_recording(self) -> bool:
        return True

    def set_attribute(self, key: str, value: types.AttributeValue) -> None:
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, types.AttributeValue]) -> None:
        _merge(self._keep().attributes, attributes)

    def add_event(self, name: str, attributes: types.Attributes = None, timestamp: int | None = None) -> None:
        events = self._keep().events
        if len(events) < _MAX_ITEMS:
            at = timestamp if isinstance(timestamp, int) and 0 < timestamp < _INT64 else time.time_ns()
            events.append((text_of(name), at, _merge({}, attributes)))

    def add_link(self, context: SpanContext, attributes: types.Attributes = None) -> None:
        links = self._keep().links
        if len(links) < _MAX_ITEMS and context.is_valid:
            links.append((f"{context.trace_id:032x}", f"{context.span_id:016x}", _merge({}, attributes)))

    def update_name(self, name: str) -> None:
        self._keep().name = text_of(name)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        code = status.status_code if isinstance(status, Status) else status
        text = status.description if isinstance(status, Status) else description
        kept = self._keep()
        if kept.status is not None and kept.status[0] == StatusCode.OK.value:
            return  # OpenTelemetry: OK is final
        if code is not StatusCode.UNSET:
            kept.status = (code.value, text_of(text) if code is StatusCode.ERROR and text is not None else None)

    def record_exception(
        self,
        exception: BaseException,
        attributes: types.Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        kind = type(exception)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        found: dict[str, types.AttributeValue] = {
            "exception.type": name,
            "exception.message": text_of(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception))[-_MAX_TEXT:],
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", {**found, **(attributes or {})}, timestamp)

    def user_data(self, limit: int) -> dict[str, Any]:
        """What was set, JSON-ready, in at most `limit` bytes and a few: what does not fit is left out, events first."""
        found: dict[str, Any] = {}
        for key, value in vars(self.kept).items() if self.kept is not None else ():
            if value:
                found[key] = value
                if len(json.dumps(found)) > limit:
                    del found[key]
                    found["cut"] = True
        return found


class UnsampledSpan(NonRecordingSpan):
    """Carries ids and records nothing, as its parent does; makes its context when somebody asks for it."""

    __slots__ = ("_ids",)

    def __init__(self, ids: Ids) -> None:
        self._ids = ids

    @property
    def _context(self) -> SpanContext:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        return span_context(self._ids, _NOT_SAMPLED)


def text_of(value: object) -> str:
    """`value` as a bounded text that UTF-8 can carry; never raises, whatever its own `__str__` does.

    Lone surrogates are no rarity: Python puts them into the names of files that are not UTF-8, and so into messages.
    """
    try:
        text = str(value)[:_MAX_TEXT]
    except Exception:
        return f"<{type(value).__qualname__}>"
    return text.encode("utf-8", "replace").decode()


def _merge(into: dict[str, Any], attributes: types.Attributes) -> dict[str, Any]:
    for key, value in (attributes or {}).items():
        name = text_of(key)
        if name in into or len(into) < _MAX_ITEMS:
            into[name] = (
                [_plain(item) for item in value[:_MAX_ITEMS]] if isinstance(value, (list, tuple)) else _plain(value)
            )
    return into


def _plain(value: object) -> str | bool | int | float:
    if isinstance(value, bytes):
        return text_of(value.decode("utf-8", "replace"))
    if isinstance(value, (bool, float)) or (isinstance(value, int) and -_INT64 <= value < _INT64):
        return value
    return text_of(value)
