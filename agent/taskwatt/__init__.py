"""taskwatt: which process, task and line burn CPU, and is that CPU useful work or repeated waste?

Importing this package costs next to nothing: the interpreter's start-up does it wherever the agent is switched on.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any

    from taskwatt._version import __version__

__all__ = ["__version__", "instrument", "label", "uninstrument"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from taskwatt import _version

        return _version.__version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def instrument() -> None:
    """Switch the agent on, as TASKWATT_ENABLED=1 does at the interpreter's start. Idempotent; never raises.

    Integrations whose library is already imported are installed before this returns; the others when theirs is. Call it
    before the application makes its tasks: what was made before may be measured in part only.
    """
    from taskwatt import _integrations

    _integrations.activate(at_once=True)


def uninstrument() -> None:
    """Undo `instrument()`: integrations, import hook, and this process's agent after it has sent what is left.

    Never raises.
    """
    from taskwatt import _integrations

    _integrations.deactivate()


def label(text: str) -> AbstractContextManager[None]:
    """Tell the CPU of a block apart: `with taskwatt.label("render"):` books it to `GET /x[render]`, or to
    `module.qualname[render]` where no request is served.

    In coroutines (across awaits), in threads, in plain functions; child tasks and thread pool items of the block
    belong to it. Labels are few words, never ids: a process tells 500 rows apart, the rest share `other`. Does nothing,
    and costs next to nothing, when the agent is off, and within a Celery attempt, which pays for itself.
    """
    integrations = sys.modules.get("taskwatt._integrations")
    if integrations is None or not integrations.active():
        return _NOTHING
    from taskwatt.labels import Label

    return Label(text)


class _Nothing:
    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


_NOTHING = _Nothing()
