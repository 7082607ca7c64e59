"""Which line of a stack is the user's to change.

A hot stack often ends deep in a library. The line that helps is the innermost one of the user's own code: outside of
the standard library and of installed packages. An application that is itself installed as a package has no such line;
then it is the frame that the framework called into.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

_INSTALLED: Final = ("/site-packages/", "/dist-packages/")
_PLUMBING: Final = frozenset({"celery", "kombu", "billiard", "amqp", "vine", "opentelemetry"})
_OWN: Final = str(Path(__file__).resolve().parent) + "/"
_ENTRY: Final = "/celery/app/trace.py"
"""Everything outside of it is how the worker got there."""
_MAX_DEPTH: Final = 300
_FOLDERS: Final = {
    "installed_base": sys.base_prefix,
    "installed_platbase": sys.base_exec_prefix,
    "base": sys.prefix,
    "platbase": sys.exec_prefix,
    "platlibdir": sys.platlibdir,
    "implementation_lower": "python",
    "py_version_short": f"{sys.version_info[0]}.{sys.version_info[1]}",
    "abi_thread": "t" if "t" in getattr(sys, "abiflags", "") else "",
}
"""What stands in the names of these folders."""


class Line(NamedTuple):
    """One frame, as plain values."""

    function: str
    file: str
    line: int


def choose(stack: Iterable[Line]) -> Line | None:
    """The line to show for a stack, given innermost first; None for an empty one."""
    leaf: Line | None = None
    entered: Line | None = None
    inner: Line | None = None
    for depth, frame in enumerate(stack):
        if is_user_code(frame.file):
            return frame
        if frame.file.endswith(_ENTRY) or depth >= _MAX_DEPTH:
            return inner or entered or leaf or frame
        if is_plumbing(frame.file):
            entered, inner = inner or entered, None
        else:
            inner = frame
        leaf = leaf or frame
    return entered or leaf


@lru_cache(maxsize=4096)
def is_user_code(file: str) -> bool:
    """Is it neither of the standard library, nor installed, nor made up at run time (`<string>`), nor ours?

    The demo's tasks are ours and installed, and stand for a user's.
    """
    if _is_ours(file):
        return "/demo/" in file.rpartition("/taskwatt")[2]
    return not (file.startswith(("<", *_library_folders())) or _package(file))


@lru_cache(maxsize=4096)
def is_plumbing(file: str) -> bool:
    """Does it stand between a worker's start and the task's code?"""
    return _is_ours(file) or _package(file) in _PLUMBING


def _is_ours(file: str) -> bool:
    package = _package(file)
    if package:
        return package == "taskwatt" or package.startswith("taskwatt_")
    return file.startswith(_own_folders())


def _package(file: str) -> str:
    """The installed package that a file belongs to; empty for any other file."""
    for part in _INSTALLED:
        _, found, rest = file.rpartition(part)
        if found:
            return rest.partition("/")[0].removesuffix(".py")
    return ""


@lru_cache(maxsize=1)
def _library_folders() -> tuple[str, ...]:
    """The standard library and the folder of console scripts; not sys.prefix: images keep applications below it."""
    folders = {_folder(name) for name in ("stdlib", "platstdlib", "scripts")}
    resolved = {str(Path(folder).resolve()) for folder in folders if folder}
    return tuple(sorted(folder + "/" for folder in (folders | resolved) if folder))


def _folder(name: str) -> str:
    """One of `sysconfig.get_paths()`, which loads all that is known of how Python was built."""
    template = sysconfig.get_paths(expand=False).get(name, "")
    try:
        return os.path.normpath(template.format_map(_FOLDERS))
    except (KeyError, ValueError):  # a way to lay out an installation that is not known here
        return sysconfig.get_path(name)


def _own_folders() -> tuple[str, ...]:
    """Where taskwatt and its integrations lie when they run from a checkout."""
    modules = [module for name, module in tuple(sys.modules.items()) if name.startswith("taskwatt_")]
    files = [getattr(module, "__file__", None) for module in modules]
    return (_OWN, *{str(Path(file).parent) + "/" for file in files if file})
