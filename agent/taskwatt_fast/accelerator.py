"""Takes the hooks in C in and out, after the running interpreter was found to be one that they know."""

from __future__ import annotations

from asyncio import events, format_helpers
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

from taskwatt_fast.compiled import compiled
from taskwatt_fast.refusal import Refused
from taskwatt_fast.trial import look_at, place_of_the_call, try_out


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the part in C calls, each on the thread of the loop that it concerns, and never in the middle of a step.

    One that raises is reported to `broken`, which decides; the step goes on.
    """

    resolve: Callable[[Any, bool, Any], Any]
    """`(coroutine, True, None)` or `(callback, False, handle)`: the Figures that its steps add to. Once a type, where
    its code is known, else at each step. Figures are kept by the callee until `uninstall`."""
    adopt: Callable[[], object]
    """A step runs on a thread that has no clock: `attach` one now, or be asked no more."""
    look: Callable[[Any, Any, Any, Any], int]
    """`(figures, coroutine or None, handle or task, future that woke it or None)`, before a step that is to be looked
    at; in how many steps of the type the next one is (1: the next)."""
    slow: Callable[[Any, Any, float, float, float], object]
    """`(clock, figures, start_s, duration_s, cpu_s)` after a step of `slow_s` or more; its start by `perf_counter`."""
    broken: Callable[[BaseException], bool]
    """One of these raised this. True: it was meant for the user's code, and will be raised there after the step."""


class Accelerator:
    """One in a process. Refused says why it cannot be; nothing was changed then."""

    def __init__(self, hooks: Hooks, slow_s: float) -> None:
        self.carrier: Any = compiled()
        self._hooks = hooks
        self._slow_s = slow_s
        self._original = known_run()
        try:
            look_at(self.carrier)
        except ValueError as error:
            raise Refused(str(error)) from error
        place = place_of_the_call(self._original)
        self._method = self.carrier.run_method(events.Handle, self._original, except_clause(), *place)
        try_out(self.carrier, self._original, self._method)

    def install(self) -> None:
        hooks = self._hooks
        self.carrier.start(
            hooks.resolve, hooks.adopt, hooks.look, hooks.slow, hooks.broken, self._slow_s, *kinds_of_methods()
        )
        events.Handle._run = self._method  # type: ignore[method-assign]

    def uninstall(self) -> None:
        """Also while steps run: they end as they began, and are not counted. Idempotent.

        A `_run` that somebody has put around ours stays; what is left of ours only does what the original did.
        """
        if vars(events.Handle).get("_run") is self._method:
            events.Handle._run = self._original  # type: ignore[method-assign]
        self.carrier.stop()


def kinds_of_methods() -> tuple[tuple[CodeType, ...], type, tuple[CodeType, ...]]:
    """Code of the transports' methods that only read and call a protocol; the protocol of TLS, which calls another;
    code of the steps of tasks in pure Python."""
    from asyncio import selector_events, sslproto, tasks

    transports = (getattr(selector_events, name, None) for name in _TRANSPORTS)
    reads = (getattr(transport, "_read_ready", None) for transport in transports)
    task: Any = getattr(tasks, "_PyTask", None)
    steps = (getattr(task, f"_Task__{name}", None) for name in ("step", "wakeup"))
    return _codes(reads), sslproto.SSLProtocol, _codes(steps)


_TRANSPORTS = "_SelectorSocketTransport", "_SelectorDatagramTransport"


def _codes(functions: Iterable[Any]) -> tuple[CodeType, ...]:
    return tuple(function.__code__ for function in functions if isinstance(function, FunctionType))


def known_run() -> FunctionType:
    """The standard library's `_run`, and no other: one that somebody replaced is not ours to replace again."""
    original = vars(events.Handle).get("_run")
    if not isinstance(original, FunctionType) or original.__code__.co_filename != known_run_file(events):
        raise Refused(f"asyncio.Handle._run is {original!r} already")
    return original


def known_run_file(module: ModuleType) -> str:
    """What the module's code says that its file is; `__file__` may be spelled otherwise."""
    init = vars(events.Handle)["__init__"]
    return init.__code__.co_filename if isinstance(init, FunctionType) else str(module.__file__)


def except_clause() -> Callable[[events.Handle, BaseException], None]:
    """What `Handle._run` does with an exception of its callback."""
    describe: Any = vars(format_helpers)["_format_callback_source"]
    with_debug = "debug" in describe.__code__.co_varnames

    def failed(handle: Any, error: BaseException) -> None:
        options = {"debug": handle._loop.get_debug()} if with_debug else {}
        callback = describe(handle._callback, handle._args, **options)
        context = {"message": f"Exception in callback {callback}", "exception": error, "handle": handle}
        if handle._source_traceback:
            context["source_traceback"] = handle._source_traceback
        handle._loop.call_exception_handler(context)

    return failed
