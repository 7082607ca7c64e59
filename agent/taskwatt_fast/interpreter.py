"""For which interpreters the parts in C were written."""

from __future__ import annotations

import sys

from taskwatt_fast.refusal import Refused

NEWEST = (3, 13)
"""The newest version whose tasks and coroutines were looked at. Older ones are shut out by the package's metadata."""


def refuse_unknown_interpreters() -> None:
    if sys.implementation.name != "cpython":
        raise Refused(f"{sys.implementation.name} is not CPython")
    if "t" in sys.abiflags:
        raise Refused("this is a free-threaded build of Python")
    if sys.version_info[:2] > NEWEST:
        raise Refused(f"Python {sys.version_info[0]}.{sys.version_info[1]} is newer than any it was tried on")
