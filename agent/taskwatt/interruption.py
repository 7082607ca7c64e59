"""Tells an exception that a signal handler raised, somewhere inside our code, from a failure of our own.

Soft time limits and alarms work that way. Such an exception is meant for the user's code: it is neither swallowed nor
held against the hook it happened to hit.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import CodeType
from typing import Any


def raised_by_a_signal(error: BaseException) -> bool:
    """Is a signal handler of this process on the traceback of `error`?"""
    codes = set(_handlers())
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in codes:
            return True
        traceback = traceback.tb_next
    return False


def _handlers() -> Iterator[CodeType]:
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        code = getattr(getattr(handler, "__func__", handler), "__code__", None)
        if isinstance(code, CodeType):
            yield code
