"""Finds integrations by their entry points and installs each one when the library it is for has been imported.

    [project.entry-points."taskwatt.integrations"]
    celery = "taskwatt_celery"

The name is the module to wait for, top-level or not; the value is a module with `install() -> None` and `uninstall()
-> None`, which is not imported before. `importlib.metadata` is not used: importing it costs more than reading the few
`entry_points.txt` files on `sys.path`, which is a fraction of a millisecond. They are read when the first module from
outside of the standard library is looked for, and once a directory: a start-up file that runs after ours may add
some.
"""

from __future__ import annotations

import os
import sys

from taskwatt import _imports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType
    from typing import TypeAlias

    Integration: TypeAlias = tuple[str, str]
    """The module to wait for, and the module with `install` and `uninstall`."""

GROUP = "taskwatt.integrations"
_GROUP = GROUP.encode()
_METADATA = (".dist-info", ".egg-info")
_LARGEST = 1 << 16
_STDLIB = os.path.dirname(os.__file__)

_read: set[str] = set()
_found: set[Integration] = set()
_installed: dict[Integration, ModuleType] = {}
_level_before: list[int] = []
_active = False


def active() -> bool:
    """Is the agent on in this process?"""
    return _active


def activate(*, at_once: bool = False) -> None:
    """Wait for the libraries of all integrations; with `at_once`, do not put off looking which there are."""
    global _active
    _active = True
    _imports.before_lookup(_look)
    if at_once:
        _look()


def deactivate() -> None:
    """Uninstall what was installed, take the import hook out, stop this process's agent."""
    global _active
    _active = False
    for integration, module in reversed(list(_installed.items())):
        _uninstall(integration, module)
    _installed.clear()
    _imports.uninstall()
    _found.clear()
    _read.clear()
    runtime = sys.modules.get("taskwatt.runtime")
    if runtime is not None:
        try:
            runtime.runtime.stop()
        except Exception as error:
            _warn("taskwatt did not stop cleanly", error)
    _restore_log_level()


def _look() -> None:
    for directory in list(map(str, sys.path)):
        if directory in _read:
            continue
        _read.add(directory)
        if directory == _STDLIB or directory.endswith("lib-dynload"):
            continue
        for integration in integrations_in(directory):
            if integration not in _found:
                _found.add(integration)
                _await(integration)


def _await(integration: Integration) -> None:
    def imported(_: ModuleType) -> None:
        _install(integration)

    awaited, _ = integration
    _imports.when_imported(awaited, imported)


def _install(integration: Integration) -> None:
    from importlib import import_module

    _set_log_level()
    try:
        module = import_module(integration[1])
    except Exception as error:
        _warn(f"taskwatt's integration {integration[1]} cannot be imported and is off", error)
        return
    try:
        module.install()
    except Exception as error:
        _warn(f"taskwatt's integration {integration[1]} failed to install and is off", error)
        _uninstall(integration, module)
    else:
        _installed[integration] = module


def _set_log_level() -> None:
    """Only now: logging costs more to import than all of the above, and the library just imported uses it anyway.

    A bad level is named where the other settings are, when the application has set up its logging.
    """
    import logging

    from taskwatt.settings import LOG_LEVELS

    level = os.environ.get("TASKWATT_LOG_LEVEL", "").strip().upper()
    if level in LOG_LEVELS and not _level_before:
        log = logging.getLogger("taskwatt")
        _level_before.append(log.level)
        log.setLevel(level)


def _restore_log_level() -> None:
    if _level_before:
        import logging

        logging.getLogger("taskwatt").setLevel(_level_before.pop())


def _uninstall(integration: Integration, module: ModuleType) -> None:
    try:
        module.uninstall()
    except Exception as error:
        _warn(f"taskwatt's integration {integration[1]} did not uninstall cleanly", error)


def _warn(what: str, error: Exception) -> None:
    import logging

    logging.getLogger("taskwatt").warning("%s: %r", what, error, exc_info=error)


def integrations_in(directory: str) -> Iterator[Integration]:
    """The integrations of the distributions installed in one entry of `sys.path`; nothing if it cannot be listed."""
    try:
        with os.scandir(directory or ".") as entries:
            metadata = [entry.path for entry in entries if entry.name.endswith(_METADATA)]
    except OSError:
        return
    for path in metadata:
        text = _text(path + "/entry_points.txt")
        if _GROUP in text:
            yield from parse(text.decode(errors="replace"))


def _text(path: str) -> bytes:
    if not os.access(path, os.F_OK):  # most have none, and an exception costs twice as much as the question
        return b""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _LARGEST)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def parse(text: str) -> Iterator[Integration]:
    """The integrations that the text of an `entry_points.txt` declares."""
    inside = False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            inside = line == f"[{GROUP}]"
        elif inside and "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            yield name.strip(), value.strip()
