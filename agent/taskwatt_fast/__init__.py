"""Measures the steps of event loops in C, for taskwatt: the same figures as its pure-Python carrier, for less.

    accelerator = Accelerator(Hooks(...), slow_s=0.1)   # may raise Refused
    accelerator.install()
    ...
    accelerator.uninstall()

`asyncio.Handle._run` is replaced by a method in C, and the entries of CPython's own Task are hooked for steps that no
Python handle runs (uvloop's, and eager ones). Where the interpreter keeps what is read of tasks, coroutines and handles
is looked up on live objects first, then the whole is tried without a loop; whatever does not match is refused.
"""

from __future__ import annotations

from taskwatt_fast.accelerator import Accelerator, Hooks
from taskwatt_fast.refusal import Refused

__all__ = ["Accelerator", "Hooks", "Refused"]
