"""Methods of a framework's classes, replaced when their modules are imported and put back in one go."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeAlias

from taskwatt import _imports
from taskwatt_web import request

Replacement: TypeAlias = Callable[[Any], Any]
"""Gives what stands in for the method it is called with."""


class Patches:
    """By module, class and method. Where one of them is not as expected nothing is replaced: the class inherits the
    method, and is seen in its base, or this version of the framework has none."""

    def __init__(self, wanted: Mapping[str, Mapping[tuple[str, str], Replacement]]) -> None:
        self._wanted = wanted
        self._replaced: dict[tuple[type, str], Any] = {}
        self._awaiting = False

    def install(self) -> None:
        """Replace what is there already, also of modules that are just being imported, and the rest later.
        Idempotent."""
        if self._awaiting:
            return
        self._awaiting = True
        for name in self._wanted:
            if name in sys.modules:
                self._on_import(sys.modules[name])
            _imports.when_imported(name, self._on_import)

    def uninstall(self) -> None:
        self._awaiting = False
        request.forget()
        _imports.forget(self._on_import)
        while self._replaced:
            (owner, name), original = self._replaced.popitem()
            setattr(owner, name, original)

    def _on_import(self, module: ModuleType) -> None:
        for (owner_name, name), replacement in self._wanted.get(module.__name__, {}).items():
            owner = getattr(module, owner_name, None)
            if not isinstance(owner, type) or (owner, name) in self._replaced:
                continue
            if callable(original := vars(owner).get(name)):
                self._replaced[owner, name] = original
                setattr(owner, name, replacement(original))
