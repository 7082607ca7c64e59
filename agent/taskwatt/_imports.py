"""Post-import hooks: call back when a module has been imported, whoever imports it, and leave no trace on it.

The finder stands first in `sys.meta_path` and asks the finders behind it. For an awaited module it puts a loader in
front of the one they gave; that loader steps aside *before* the module's code runs, so that `__spec__.loader`,
`__loader__`, `pkgutil.get_data` and `importlib.reload` see what they would see without us. Other import hooks, before
or behind, keep working: nothing is looked up by any way but theirs.
"""

from __future__ import annotations

import sys
from _thread import get_ident

TYPE_CHECKING = False
"""Type checkers take it for true. `typing` is not imported: it would cost ten times as much as all of this."""
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any, TypeAlias

    Callback: TypeAlias = Callable[[ModuleType], None]

_awaited: dict[str, list[Callback]] = {}
_looking: set[tuple[int, str]] = set()
"""Thread and module of the look-ups under way: a finder that itself asks all finders must not meet us again."""


def when_imported(module_name: str, callback: Callback) -> None:
    """Call `callback(module)` once, when `module_name` has been imported: at once if it already is.

    It is called on the importing thread, after the module's code ran and before the import statement returns. It gets
    what stands in `sys.modules` then (celery replaces itself). What it raises is logged and goes no further.
    """
    install()
    _awaited.setdefault(module_name, []).append(callback)
    if _is_imported(module_name):
        _fire(module_name)


def forget(callback: Callback) -> None:
    """Undo `when_imported` for every module this callback still waits for."""
    for name, callbacks in list(_awaited.items()):
        if callback in callbacks:
            callbacks.remove(callback)
        if not callbacks:
            _awaited.pop(name, None)


def install() -> None:
    """Put the finder first in `sys.meta_path`. Idempotent."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def uninstall() -> None:
    """Take the finder out of `sys.meta_path` and forget everything that was awaited."""
    _awaited.clear()
    _finder.before_lookup = None
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def before_lookup(callback: Callable[[], None]) -> None:
    """Call `callback()` whenever a top-level module outside of the standard library, or asyncio, is looked for."""
    install()
    _finder.before_lookup = callback


class _Finder:
    before_lookup: Callable[[], None] | None = None

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if self.before_lookup is not None and "." not in name and name not in _NOT_AWAITED:
            _guarded(self.before_lookup)
        if not _awaited:
            return None
        _catch_up()
        looking = get_ident(), name
        if name not in _awaited or looking in _looking:
            return None
        _looking.add(looking)
        try:
            spec = self._from_others(name, path, target)
        finally:
            _looking.discard(looking)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]  # not a Loader by name, one by conduct
        return spec

    def _from_others(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find_spec = getattr(finder, "find_spec", None)
            if finder is self or find_spec is None:
                continue
            spec: ModuleSpec | None = find_spec(name, path, target)
            if spec is not None:
                return spec
        return None


class _Loader:
    """Stands in for a module's loader until its code is about to run."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        create: Callable[[ModuleSpec], ModuleType | None] | None = getattr(self._original, "create_module", None)
        return None if create is None else create(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None and self._is(spec.loader):
            spec.loader = self._original
        if self._is(getattr(module, "__loader__", None)):
            module.__loader__ = self._original
        self._original.exec_module(module)
        _fire(module.__name__ if spec is None else spec.name)

    def _is(self, loader: object) -> bool:
        return loader is self


def _fire(name: str) -> None:
    module = sys.modules.get(name)
    if module is None:
        return
    for callback in _awaited.pop(name, ()):
        _guarded(callback, module)


def _catch_up() -> None:
    """Fire for modules that a finder before ours loaded (pytest's assertion rewriting, for one)."""
    for name in list(_awaited):
        if _is_imported(name):
            _fire(name)


def _is_imported(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False)


def _guarded(callback: Callable[..., None], *arguments: object) -> None:
    try:
        callback(*arguments)
    except Exception:
        import logging

        logging.getLogger("taskwatt").warning("taskwatt: an import hook failed and is off", exc_info=True)


_NOT_AWAITED = sys.stdlib_module_names - {"asyncio"} | {"sitecustomize", "usercustomize"}
_finder = _Finder()
