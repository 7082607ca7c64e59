"""What kind of process this is, from what runs in it: web, worker, scheduler, or else a job.

Asked when a process first has something to say, and again when its agent starts. TASKWATT_PROCESS_CLASS overrides it.

The command line tells most: `uvicorn app:app`, `celery -A shop worker`. A program that starts a server itself is told
by who called: the server's own frames are below the event loop that it runs. What is merely imported says nothing:
many a script imports the application that another process serves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Final

from taskwatt.observations import ProcessClass
from taskwatt.settings import Settings

_SERVERS: Final = frozenset(
    {
        "daphne",
        "fastapi",
        "granian",
        "gunicorn",
        "hypercorn",
        "mod_wsgi-express",
        "sanic",
        "uvicorn",
        "uwsgi",
        "waitress-serve",
    }
)
"""Programs that serve whatever they are told to."""
_COMMANDS: Final[dict[str, frozenset[str]]] = {
    "django-admin": frozenset({"runserver", "runserver_plus", "testserver"}),
    "manage.py": frozenset({"runserver", "runserver_plus", "testserver"}),
    "flask": frozenset({"run"}),
}
"""Programs that serve with one of these commands."""
_RUNNERS: Final[tuple[tuple[str, ProcessClass], ...]] = (
    ("uvicorn", "web"),
    ("gunicorn", "web"),
    ("hypercorn", "web"),
    ("daphne", "web"),
    ("granian", "web"),
    ("aiohttp.web", "web"),
    ("aiohttp.worker", "web"),
    ("celery.apps.beat", "scheduler"),
    ("celery.beat", "scheduler"),
    ("celery.apps.worker", "worker"),
    ("celery.worker", "worker"),
)
"""Modules whose frames below the one that asks tell what runs."""
_CELERY_OPTIONS: Final = frozenset(
    {"-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir"}
)
"""Of the celery program itself, those that a value follows."""


def process_class(default: ProcessClass | None = None) -> ProcessClass:
    """The setting, else `default` (what an integration knows), else what evidently runs."""
    return (
        Settings.from_environ(os.environ).process_class or default or evident(sys.argv, sys._getframe())  # pyright: ignore[reportPrivateUsage]  # documented
    )


def is_celery_worker() -> bool:
    """Whatever the setting calls it."""
    return evident(sys.argv, sys._getframe()) == "worker"  # pyright: ignore[reportPrivateUsage]  # documented


def evident(argv: Sequence[str], frame: FrameType | None = None) -> ProcessClass:
    """From the command line, then from the frames that called."""
    name = _program(argv)
    if name == "celery":
        command = _celery_command(argv[1:])
        return "scheduler" if command == "beat" else "worker" if command == "worker" else "job"
    if name in _SERVERS or (name in _COMMANDS and any(word in _COMMANDS[name] for word in argv[1:2])):
        return "web"
    return _running(frame) or "job"


def _program(argv: Sequence[str]) -> str:
    """`python -m uvicorn` has the path of uvicorn/__main__.py for its first word, or uvicorn.py's."""
    if not argv:
        return ""
    folder, name = os.path.split(argv[0])
    return os.path.basename(folder) if name == "__main__.py" else name


def _celery_command(words: Sequence[str]) -> str:
    skip = False
    for word in words:
        if skip or word.startswith("-"):
            skip = not skip and word in _CELERY_OPTIONS
        else:
            return word
    return ""


def _running(frame: FrameType | None) -> ProcessClass | None:
    while frame is not None:
        module = frame.f_globals.get("__name__")
        if isinstance(module, str):
            for name, found in _RUNNERS:
                if module == name or module.startswith((name + ".", name + "_")):
                    return found
        frame = frame.f_back
    return None
