"""CPU of a known amount: the truth that figures are held against."""

from __future__ import annotations

from time import thread_time


def burn(seconds: float) -> float:
    """Use `seconds` of this thread's CPU; what was used."""
    start = thread_time()
    until = start + seconds
    while thread_time() < until:
        pass
    return thread_time() - start
