"""Coordination bugs that Python itself notices: counted per type, and told to the user as Python tells them.

- a task's exception that nobody retrieved, a task destroyed while pending: `call_exception_handler` of the loop;
- a coroutine that nobody awaited: `warnings._warn_unawaited_coroutine`.
"""

from __future__ import annotations

import logging
import warnings
from asyncio import BaseEventLoop, Task
from collections.abc import Callable
from types import CodeType, FunctionType, SimpleNamespace
from typing import Any, Final, cast

from taskwatt.meter import hide_this_frame
from taskwatt_asyncio import types

log = logging.getLogger("taskwatt")

_NEVER_RETRIEVED: Final = "exception was never retrieved"
_DESTROYED: Final = "Task was destroyed but it is pending!"
_WARN: Final = "_warn_unawaited_coroutine"

_originals: dict[Any, tuple[Any, Any]] = {}
"""By class, or the module `warnings`: what stood there itself (None: inherited), and what was put there."""
_failed = False


def install() -> None:
    """Patch both, for every loop of the process. Idempotent."""
    if warnings in _originals:
        return
    watch(BaseEventLoop)
    original = getattr(warnings, _WARN, None)
    if original is not None:
        ours = _counting(original)
        _originals[warnings] = original, ours
        setattr(warnings, _WARN, ours)


def watch(loop_class: Any) -> None:
    """Patch a class of loops that has a `call_exception_handler` of its own."""
    if loop_class in _originals:
        return
    original = loop_class.call_exception_handler

    def call_exception_handler(self: Any, context: dict[str, Any]) -> None:
        _count(context)
        try:
            original(self, context)
        except BaseException as error:
            hide_this_frame(error)
            raise

    call_exception_handler.__wrapped__ = original  # type: ignore[attr-defined]
    _originals[loop_class] = cast(Any, vars(loop_class)).get("call_exception_handler"), call_exception_handler
    loop_class.call_exception_handler = call_exception_handler


def uninstall() -> None:
    for owner, (own, ours) in tuple(_originals.items()):
        name = _WARN if owner is warnings else "call_exception_handler"
        if cast(Any, vars(owner)).get(name) is not ours:
            continue
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
    _originals.clear()


def _count(context: dict[str, Any]) -> None:
    try:
        message = context.get("message") or ""
        if message.endswith(_NEVER_RETRIEVED):
            task = context.get("future")
            if isinstance(task, Task):
                types.of_task(task).never_retrieved += 1
        elif message == _DESTROYED:
            coroutine: Any = context["task"].get_coro()
            stats = types.of_coroutine(coroutine)
            stats.destroyed_pending += 1
            unborn = getattr(coroutine, "cr_frame", None) is not None and not types.is_suspended(coroutine)
            stats.started += unborn  # its end is counted, so its beginning must be
    except Exception as error:
        _say(error)


def _counting(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """Python warns with the line that dropped the coroutine, by counting frames: ours must not be one more.

    So the original only says what to warn of, and the warning is given from here.
    """
    compose = _composer(original)

    def _warn_unawaited_coroutine(coro: Any) -> None:
        try:
            types.of_coroutine(coro).never_awaited += 1
            warning = compose(coro)
        except Exception as error:
            _say(error)
            warning = None
        if warning is None:
            original(coro)
        else:
            warnings.warn(warning, category=RuntimeWarning, stacklevel=2, source=coro)

    _warn_unawaited_coroutine.__wrapped__ = original  # type: ignore[attr-defined]
    return _warn_unawaited_coroutine


def _composer(original: Any) -> Callable[[Any], str | None]:
    """What gives the text of the original's warning; None where the original is not the one of the library."""
    code = getattr(original, "__code__", None)
    if not isinstance(code, CodeType) or "linecache" not in code.co_varnames + code.co_cellvars:
        return _unknown
    texts: list[Any] = []

    def warn(message: Any, **_: Any) -> None:
        texts.append(message)

    scope = {**original.__globals__, "warn": warn, "_wm": SimpleNamespace(warn=warn)}
    copy = FunctionType(code, scope, original.__name__, original.__defaults__, original.__closure__)

    def compose(coroutine: Any) -> str | None:
        texts.clear()
        copy(coroutine)
        return texts[0] if len(texts) == 1 and isinstance(texts[0], str) else None

    return compose


def _unknown(_: Any) -> None:
    return None


def _say(error: Exception) -> None:
    global _failed
    if not _failed:
        _failed = True
        log.warning("taskwatt does not count lost tasks: %r", error, exc_info=error)
