"""taskwatt: which process, task and line burn CPU, and is that CPU useful work or repeated waste?

Importing this package costs next to nothing: the interpreter's start-up does it wherever the agent is switched on.
"""

from __future__ import annotations

__all__ = ["__version__", "instrument", "uninstrument"]

__version__ = "0.1.0"


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
