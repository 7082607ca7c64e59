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
from typing import Any, Final

from taskwatt.meter import hide_this_frame
from taskwatt_asyncio import types

log = logging.getLogger("taskwatt")

_NEVER_RETRIEVED: Final = "exception was never retrieved"
_DESTROYED: Final = "Task was destroyed but it is pending!"
_WARN: Final = "_warn_unawaited_coroutine"

_originals: dict[Any, Callable[..., Any]] = {}
_failed = False


def install() -> None:
    """Patch both, for every loop of the process. Idempotent."""
    if _originals:
        return
    watch(BaseEventLoop)
    original = getattr(warnings, _WARN, None)
    if original is not None:
        _originals[warnings] = original
        setattr(warnings, _WARN, _counting(original))


def watch(loop_class: Any) -> None:
    """Patch a class of loops that has a `call_exception_handler` of its own."""
    if loop_class in _originals:
        return
    original = _originals[loop_class] = loop_class.call_exception_handler

    def call_exception_handler(self: Any, context: dict[str, Any]) -> None:
        _count(context)
        try:
            original(self, context)
        except BaseException as error:
            hide_this_frame(error)
            raise

    call_exception_handler.__wrapped__ = original  # type: ignore[attr-defined]
    loop_class.call_exception_handler = call_exception_handler


def uninstall() -> None:
    for owner, original in tuple(_originals.items()):
        name = _WARN if owner is warnings else "call_exception_handler"
        if getattr(getattr(owner, name), "__wrapped__", None) is original:
            if (isinstance(owner, type) and name not in vars(owner.__base__ or object)) or owner is warnings:
                setattr(owner, name, original)
            else:
                delattr(owner, name)
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
            if not getattr(coroutine, "cr_suspended", True):  # its end is counted, so its beginning must be
                stats.started += 1
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
