"""The part in C, where the running interpreter is one that it knows. Imports no asyncio: accounts ask for it, too."""

from __future__ import annotations

from typing import Any

from taskwatt_fast.interpreter import refuse_unknown_interpreters
from taskwatt_fast.refusal import Refused


def compiled() -> Any:
    """The part in C; Refused where it was not built, was built for another Python, or is not for this interpreter."""
    refuse_unknown_interpreters()
    try:
        from taskwatt_fast import _carrier
    except ImportError as error:
        raise Refused(f"its compiled part cannot be loaded: {error}") from error
    return _carrier
