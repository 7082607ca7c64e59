"""Whether the accelerator may be asked at all: is it wanted, installed, and of this very version?

taskwatt and taskwatt-fast are two distributions of one project. They call each other by names and layouts that change
from version to version, so one of another version is left alone before anything of it is used. What it says of itself
once it was asked is `taskwatt_fast.Refused`.
"""

from __future__ import annotations

import os

from taskwatt._version import __version__
from taskwatt.settings import refuses_accelerator


def unusable() -> str:
    """Why it may not be asked, as part of a sentence; empty where it may."""
    if refuses_accelerator(os.environ):
        return "TASKWATT_ACCELERATOR=0 refuses the accelerator"
    try:
        import taskwatt_fast
    except ImportError:
        return "the accelerator, taskwatt-fast, is not installed"
    version = getattr(taskwatt_fast, "__version__", "of an unknown version")
    if version != __version__:
        return f"the accelerator, taskwatt-fast, is {version} and this is taskwatt {__version__}"
    return ""
