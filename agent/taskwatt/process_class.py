"""What kind of process this is, from what runs in it: web, worker, scheduler, or else a job.

Asked when a process first has something to say. TASKWATT_PROCESS_CLASS overrides it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from taskwatt.observations import ProcessClass
from taskwatt.settings import Settings

_SERVERS: Final = ("daphne", "granian", "gunicorn", "hypercorn", "uvicorn")
"""Packages that a process imports in order to serve. One that serves without them (aiohttp) is told by its hook."""


def process_class(default: ProcessClass | None = None) -> ProcessClass:
    """The setting, else `default` (what an integration knows), else what evidently runs."""
    return Settings.from_environ(os.environ).process_class or default or evident(sys.argv)


def evident(argv: Sequence[str]) -> ProcessClass:
    words = [os.path.basename(word) for word in argv]
    if any("celery" in word for word in argv):
        if "beat" in words:
            return "scheduler"
        if "worker" in words:
            return "worker"
    return "web" if any(name in sys.modules for name in _SERVERS) else "job"
