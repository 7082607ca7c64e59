"""The parts in C, where the running interpreter is one that they know. No asyncio: accounts ask for them, too."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from taskwatt_fast.interpreter import refuse_unknown_interpreters
from taskwatt_fast.refusal import Refused


def compiled() -> Any:
    """What measures event loops and accounts, as `loaded`."""
    return loaded("taskwatt_fast._carrier")


def loaded(part: str) -> Any:
    """A module in C. Refused where it is not for this interpreter, was not built for it, or cannot be loaded."""
    refuse_unknown_interpreters()
    try:
        return import_module(part)
    except ModuleNotFoundError as error:
        if error.name != part:
            raise Refused(f"its compiled part cannot be loaded: {error}") from error
        raise Refused("it is not built") from error
    except ImportError as error:
        raise Refused(f"its compiled part cannot be loaded: {error}") from error
