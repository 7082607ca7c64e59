"""What the interpreter's start-up calls when the agent is installed: from `taskwatt_autostart.pth`, or from
`taskwatt_autostart.start` where PEP 829 holds (Python 3.15).

It runs in every Python process of the environment, so it imports next to nothing, never raises, and is a matter of
microseconds when the variable is unset.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ENABLED = "TASKWATT_ENABLED"
TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off", ""})


def main() -> None:
    """Install the import hook if the environment asks for it. In a virtual environment this is called twice."""
    word = os.environ.get(ENABLED, "").strip().lower()
    if word in FALSE:
        return
    try:
        if word not in TRUE:
            _name_bad_word()
        elif in_main_interpreter():
            from taskwatt import _integrations

            _integrations.activate()
    except Exception as error:
        _report(error)


def in_main_interpreter() -> bool:
    """Patches and threads of a subinterpreter are its own, and its daemon threads are refused: the agent stays out."""
    if sys.version_info >= (3, 12):
        import _thread

        return _thread._is_main_interpreter()
    _signal: Any = __import__("_signal")

    try:
        _signal.signal(0, None)  # refused either way; the first reason would be that it is another interpreter
    except ValueError as refused:
        if "out of range" in str(refused):
            return True
    # Another thread of this one, or another interpreter: to import this takes a tenth of all that is done here.
    try:
        subinterpreters: Any = __import__("_xxsubinterpreters")
    except ImportError:
        return True
    return bool(subinterpreters.get_current() == subinterpreters.get_main())


def _name_bad_word() -> None:
    from taskwatt.settings import Settings

    Settings.from_environ(os.environ)


def _report(error: Exception) -> None:
    import logging

    logging.getLogger("taskwatt").warning("taskwatt could not start in process %d: %r", os.getpid(), error)
