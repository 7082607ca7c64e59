"""Encoding and decoding of messages and results, counted as an activity of its own.

Hooked: every entry of kombu's serializer registry (looked up per call, so aliases do not matter; `refresh` picks up
what was registered later); and the standard library's `JSONEncoder.encode` and `JSONDecoder.decode`, which is where
both kombu and a task's own `json.dumps` end. Other libraries' encoders stay business. Where the accelerator measures
attempts, its wrappers, which are no frames of Python's, measure encoders too.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, cast

from taskwatt.meter import hide_this_frame, timed
from taskwatt_celery import carriers

_SMALL = 2048
"""Characters below which a decode is not worth two clock reads (it takes less than 10 us)."""

_undo: list[Callable[[], None]] = []
_waiting: list[Callable[[], None]] = []


def when_long(call: Callable[[], None]) -> None:
    """Call this once, right before the first decode that is worth being measured; on that thread."""
    _waiting.append(call)


def _announce() -> None:
    while _waiting:
        _waiting.pop()()


def install() -> None:
    """Wrap the encoders; idempotent."""
    if _undo:
        return
    _wrap_json()
    refresh()


def refresh() -> None:
    """Wrap serializers that were registered since; a worker calls it when it starts and in every new child."""
    from kombu import serialization

    registry = cast(Any, serialization).registry  # kombu's stubs leave it out
    for codecs in (registry._encoders, registry._decoders):
        for name in list(codecs):
            _wrap_entry(codecs, name)


def uninstall() -> None:
    """Put every encoder back that is still ours."""
    _waiting.clear()
    while _undo:
        _undo.pop()()


def _wrap_entry(codecs: dict[str, Any], key: str) -> None:
    from kombu.serialization import codec

    entry = codecs[key]
    function: Any = entry.encoder if isinstance(entry, codec) else entry
    if function is None or hasattr(function, "_taskwatt"):
        return
    counted = cast(Any, _timed(function) if isinstance(entry, codec) else _timed_if_long(function))
    counted._taskwatt = True
    codecs[key] = entry._replace(encoder=counted) if isinstance(entry, codec) else counted
    ours = codecs[key]

    def restore() -> None:
        if codecs.get(key) is ours:
            codecs[key] = entry

    _undo.append(restore)


def _timed(encoder: Callable[..., Any]) -> Callable[..., Any]:
    in_c = carriers.timed()
    return timed(encoder) if in_c is None else functools.update_wrapper(in_c(encoder), encoder)


def _timed_if_long(decoder: Callable[[Any], Any]) -> Callable[[Any], Any]:
    in_c = carriers.timed()
    if in_c is not None:
        return functools.update_wrapper(in_c(decoder, _SMALL, 0, _announce), decoder)
    counted = timed(decoder)

    @functools.wraps(decoder)
    def decode(data: Any) -> Any:
        if len(data) < _SMALL:
            return decoder(data)
        _announce()
        return counted(data)

    return decode


def _wrap_json() -> None:
    encode, decode = json.JSONEncoder.encode, json.JSONDecoder.decode
    counted_encode, counted_decode = _timed(encode), _json_decoder(decode)
    json.JSONEncoder.encode = counted_encode  # type: ignore[method-assign]
    json.JSONDecoder.decode = counted_decode  # type: ignore[method-assign]

    def restore() -> None:
        if json.JSONEncoder.encode is counted_encode:
            json.JSONEncoder.encode = encode  # type: ignore[method-assign]
        if json.JSONDecoder.decode is counted_decode:
            json.JSONDecoder.decode = decode  # type: ignore[method-assign]

    _undo.append(restore)


def _json_decoder(decode: Callable[..., Any]) -> Callable[..., Any]:
    in_c = carriers.timed()
    if in_c is not None:
        return functools.update_wrapper(in_c(decode, _SMALL, 1, _announce), decode)
    counted_decode = timed(decode)

    @functools.wraps(decode)
    def decode_counted(self: json.JSONDecoder, s: str, *args: Any, **kwargs: Any) -> Any:
        try:
            if isinstance(s, str) and len(s) < _SMALL:  # pyright: ignore[reportUnnecessaryIsInstance]
                return decode(self, s, *args, **kwargs)
            _announce()
            return counted_decode(self, s, *args, **kwargs)
        except BaseException as error:
            hide_this_frame(error)
            raise

    return decode_counted
