"""What taskwatt measures most often, in C: the same figures as its pure Python, for less.

    from taskwatt_fast.accelerator import Accelerator, Hooks

    accelerator = Accelerator(Hooks(...), slow_s=0.1)   # may raise Refused
    accelerator.install()
    ...
    accelerator.uninstall()

`asyncio.Handle._run` is replaced by a method in C, and the entries of CPython's own Task are hooked for steps that no
Python handle runs (uvloop's, and eager ones). Where the interpreter keeps what is read of tasks, coroutines and handles
is looked up on live objects first, then the whole is tried without a loop; whatever does not match is refused.

`taskwatt_fast.attempts` is the same for attempts of Celery tasks. A worker that runs no loop never imports asyncio for
it, hence the late imports here.

The same extension module holds the accounts that steps are billed to (taskwatt/accounts.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskwatt_fast.refusal import Refused

if TYPE_CHECKING:
    from taskwatt_fast.accelerator import Accelerator, Hooks

__all__ = ["Accelerator", "Hooks", "Refused"]
__version__ = "0.1.0"
"""The same as taskwatt's, which takes no other."""


def __getattr__(name: str) -> Any:
    if name in ("Accelerator", "Hooks"):
        from taskwatt_fast import accelerator

        return getattr(accelerator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
