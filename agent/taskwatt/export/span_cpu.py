"""CPU of every span that begins in a task: whoever made it finds `taskwatt.cpu.time` on it when it ends.

Installed like an integration, by its entry point, when `opentelemetry.sdk.trace` has been imported. Hooked are
`Span.start` and `Span.end` of OpenTelemetry's SDK. A span processor would be the tamer way, and sees too little: when
it is told of the end the attributes are closed, and it must be added to each provider, whenever that is made. The span
opens an account (see accounts.py), so the hooks of loops and executors bill it and what is around it; child tasks
included, whichever task ends it. Where nobody measures (no loop runs and no account is open) nothing is opened: an
attempt of Celery carries its own figure.
"""

from __future__ import annotations

import functools
import logging
from asyncio import _get_running_loop  # pyright: ignore[reportPrivateUsage]  # in asyncio's __all__
from collections.abc import Callable
from typing import Any, Final

from opentelemetry.sdk.trace import Span

from taskwatt import accounts
from taskwatt.export.attributes import SECONDS, bucket

log = logging.getLogger("taskwatt")

CPU: Final = "taskwatt.cpu.time"
CPU_BUCKET: Final = "taskwatt.cpu.time_bucket"
_OWN: Final = "taskwatt"
"""Instrumentation scope of spans whose CPU we tell ourselves."""
_ACCOUNT: Final = "_taskwatt_account"

_originals: dict[str, Callable[..., Any]] = {}
_failed = False


def install() -> None:
    """Called when `opentelemetry.sdk.trace` has been imported."""
    global _failed
    if not _originals:
        _failed = False
        _originals.update(start=Span.start, end=Span.end)
        Span.start = _starting(Span.start)  # type: ignore[method-assign]
        Span.end = _ending(Span.end)  # type: ignore[method-assign]


def uninstall() -> None:
    """Leave OpenTelemetry as it was; spans that are open end without a figure."""
    for name, original in _originals.items():
        if getattr(getattr(Span, name), "__wrapped__", None) is original:
            setattr(Span, name, original)
    _originals.clear()


def _starting(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def start(self: Span, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if _get_running_loop() is not None or accounts.account.get() is not None:
            _guarded(_open, self)

    return start


def _ending(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def end(self: Span, *args: Any, **kwargs: Any) -> None:
        if hasattr(self, _ACCOUNT):
            _guarded(_close, self)
        original(self, *args, **kwargs)

    return end


def _open(span: Span) -> None:
    scope = span.instrumentation_scope
    if scope is None or scope.name != _OWN:
        setattr(span, _ACCOUNT, accounts.open_account())


def _close(span: Span) -> None:
    account: accounts.Account = getattr(span, _ACCOUNT)
    delattr(span, _ACCOUNT)
    account.close()
    # Nothing was billed: whatever ran was not measured, and 0 would be a claim.
    if account.cpu_s > 0.0 and span.is_recording() and _has_room(span):
        span.set_attributes({CPU: account.cpu_s, CPU_BUCKET: bucket(account.cpu_s, SECONDS)})


def _has_room(span: Span) -> bool:
    """A full span would drop the user's oldest attribute for ours; and what the user set himself stays."""
    attributes: Any = span.attributes
    held = span._attributes  # pyright: ignore[reportPrivateUsage]  # the only one who knows the limit
    most: int | None = getattr(held, "maxlen", None)
    return CPU not in attributes and (most is None or len(attributes) + 2 <= most)


def _guarded(hook: Callable[[Span], None], span: Span) -> None:
    """A hook that fails is off for good, says so once, and the span goes on."""
    global _failed
    if _failed or not _originals:
        return
    try:
        hook(span)
    except Exception as error:
        from taskwatt.interruption import raised_by_a_signal

        if raised_by_a_signal(error):
            raise
        _failed = True
        log.warning("taskwatt stopped measuring spans in this process: its hook failed: %r", error, exc_info=error)
