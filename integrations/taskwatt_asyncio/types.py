"""What coroutine and callback types did, by `module.qualname`: plain figures that the steps of all loops add to.

A type is found by its code object, which is kept alive so that its id stays its own. The table is bounded: what does
not fit shares one type, `other`. No lock: names are claimed with `setdefault`, and figures are plain additions.
"""

from __future__ import annotations

from asyncio import BufferedProtocol, Handle, TimerHandle, selector_events
from collections.abc import Callable
from functools import partial
from os.path import basename
from types import BuiltinMethodType, CodeType, MethodType, ModuleType
from types import CoroutineType as NativeCoroutine
from typing import Any, Final, cast

from taskwatt.observations import OTHER, StepKind

MAX_TYPES: Final = 1_000
MAX_CODES: Final = 4_000
"""Code objects kept alive: several may share a name (a function defined anew at each call of another)."""
_MAX_PARTIALS: Final = 8

class_of: Callable[[Any], Any] = type
"""`type` itself, for whom it is too much to know a type of what."""

READERS: Final = frozenset(
    id(vars(transport)["_read_ready"].__code__)
    for transport in vars(selector_events).values()
    if isinstance(transport, type) and "_read_ready" in vars(transport)
)
"""Code of asyncio's own that does nothing much but read and call the protocol, which is what it is billed to."""

Place = tuple[str, str, int]
"""Function, file, line."""


class CoroutineType:
    """Mutable sums of one type; the names are those of CoroutineTally, where they are explained."""

    __slots__ = (
        "at_end", "cancelled", "completed", "connecting", "correction_s", "costs", "defined_at", "delay_s", "delays",
        "destroyed_pending", "failed", "kind", "last", "lines", "longest_s", "looks", "name", "never_awaited",
        "never_retrieved", "next_look", "paid_s", "paired_at", "paired_s", "paired_steps", "scanned", "scanning",
        "self_wakes", "short_waits", "sleeping", "started", "steps", "suspended", "taken", "timed_out", "waits",
        "wall_s", "woke",
    )  # fmt: skip

    def __init__(self, name: str, kind: StepKind, defined_at: Place | None = None) -> None:
        self.name = name
        self.kind: StepKind = kind
        self.defined_at = defined_at
        self.steps = 0
        self.wall_s = 0.0
        self.correction_s = 0.0
        """CPU seconds = `wall_s` + `correction_s`, which is negative: what steps spent waiting."""
        self.paid_s = 0.0
        """Of its CPU, what an account's row or a Celery attempt pays for."""
        self.longest_s = 0.0
        """Since the last reading; 0.0 while none took 50 us."""
        self.self_wakes = 0
        self.started = 0
        self.completed = 0
        self.failed = 0
        self.cancelled = 0
        self.never_retrieved = 0
        self.never_awaited = 0
        self.destroyed_pending = 0
        self.delays = 0
        self.delay_s = 0.0
        self.waits = 0
        self.short_waits = 0
        self.looks = 0
        self.next_look = 0
        """The number of steps after which the next one is looked at (looks.py)."""
        self.taken = 0
        """Looks, in pairs (looks.py); below: `steps`, `wall_s` and `perf_counter` at the last whole pair."""
        self.paired_steps = 0
        self.paired_s = 0.0
        self.paired_at = 0.0
        self.sleeping = 0
        self.timed_out = 0
        self.connecting = 0
        self.scanning = 0
        self.scanned = 0
        self.last = 0
        self.woke = 0
        self.at_end = 0
        self.lines: dict[Place, int] = {}
        """How often it was suspended there; bounded."""
        self.suspended: tuple[int, int, float, float] | None = None
        """At the last look: its task's id, `steps`, `perf_counter`, `wall_s`."""
        self.costs: list[tuple[int, float]] = []

    @property
    def cpu_s(self) -> float:
        return max(0.0, self.wall_s + self.correction_s)


other = CoroutineType(OTHER, "callback")
by_name: dict[str, CoroutineType] = {}

by_code: dict[int, CoroutineType] = {}
"""By `id(code)` of native coroutines whose code says all about their name: what the carriers look up at every step."""

found: dict[object, CoroutineType] = {}
"""All others, by what carriers have at hand: `id(code)` of a function or a method; `(id(code), qualified name)` of a
coroutine whose name its code does not say; `(id(code), protocol class)` of a transport's reader (READERS); `(class,
name)` of a method written in C; the class of any other awaitable."""
_kept: list[object] = []


def of_coroutine(coroutine: Any) -> CoroutineType:
    """The type of what a task runs. Any thread. Never raises: what cannot be told apart is `other`."""
    try:
        native = type(coroutine) is NativeCoroutine
        code: Any = coroutine.cr_code if native else _code_of(coroutine)
        if not isinstance(code, CodeType):
            kind = class_of(coroutine)
            return found.get(kind) or _remember(kind, kind, f"{kind.__module__}.{kind.__qualname__}", "task", None)
        # A wrapped coroutine function (functools.wraps) shares its code with all that its decorator wrapped.
        name: str = coroutine.__qualname__
        if native and name == code.co_qualname:
            one = by_code.get(id(code))
            if one is None:
                one = _type(_qualified(coroutine, code, name), "task", _place(code))
                if len(_kept) < MAX_CODES:
                    _kept.append(code)
                    by_code[id(code)] = one
            return one
        key = id(code), name
        return found.get(key) or _remember(key, code, _qualified(coroutine, code, name), "task", _place(code))
    except Exception:
        return other


def of_task(task: Any) -> CoroutineType:
    """The type of a task, by its coroutine. Any thread. Never raises."""
    try:
        return of_coroutine(task.get_coro())
    except Exception:
        return other


def is_suspended(coroutine: Any) -> bool:
    """Has it begun, and does it wait for something? False for one that does not tell."""
    for name in ("cr_suspended", "gi_suspended"):
        suspended = getattr(coroutine, name, None)
        if suspended is not None:
            return bool(suspended)
    return getattr(coroutine, "cr_await", None) is not None  # Cython's: it waits for something or has not begun


def of_callback(callback: Any, handle: Handle | None = None) -> CoroutineType:
    """The type of any other callback: partials and methods by what they call, protocol callbacks by their protocol.

    `handle`: whose it is, which tells its kind when the type is met first. Any thread. Never raises.
    """
    try:
        for _ in range(_MAX_PARTIALS):
            if not isinstance(callback, partial):
                break
            callback = callback.func
        function = callback.__func__ if type(callback) is MethodType else callback
        code: Any = getattr(function, "__code__", None)
        if not isinstance(code, CodeType):
            return _of_callable(callback, handle)
        if type(callback) is MethodType and id(code) in READERS:
            protocol = _protocol_type(callback.__self__)
            if protocol is not None:
                pair = id(code), protocol
                return found.get(pair) or _remember(
                    pair, code, f"{protocol.__module__}.{protocol.__qualname__}.{_called(protocol)}", "io", None
                )
        key = id(code)
        return found.get(key) or _remember(
            key, code, f"{function.__module__}.{function.__qualname__}", _kind(handle), _place(code)
        )
    except Exception:
        return other


def forget() -> None:
    """After a fork, and when the agent is taken out: nothing was ever counted."""
    global other
    other = CoroutineType(OTHER, "callback")
    for table in (by_name, by_code, found):
        table.clear()
    _kept.clear()


def _of_callable(callback: Any, handle: Handle | None) -> CoroutineType:
    owner = getattr(callback, "__self__", None)
    name = getattr(callback, "__qualname__", None)
    kind = class_of(callback)
    if isinstance(name, str):
        module = getattr(callback, "__module__", None) or type(owner).__module__
        full = f"{module}.{name}"
    else:
        full = f"{kind.__module__}.{kind.__qualname__}"
    one = by_name.get(full) or _type(full, _kind(handle), None)
    if kind is BuiltinMethodType and not isinstance(owner, ModuleType | type):
        return _keep((class_of(owner), callback.__name__), class_of(owner), one)
    return one


def _remember(key: object, alive: object, name: str, kind: StepKind, place: Place | None) -> CoroutineType:
    return _keep(key, alive, _type(name, kind, place))


def _keep(key: object, alive: object, one: CoroutineType) -> CoroutineType:
    """Find it by `key` from now on; `alive` is what the key must not outlive."""
    if len(_kept) < MAX_CODES:
        _kept.append(alive)
        found[key] = one
    return one


def _type(name: str, kind: StepKind, place: Place | None) -> CoroutineType:
    one = by_name.get(name)
    if one is not None:
        return one
    if len(by_name) >= MAX_TYPES:
        return other
    return by_name.setdefault(name, CoroutineType(name, kind, place))


def _code_of(coroutine: Any) -> Any:
    code = getattr(coroutine, "cr_code", None)
    return code if code is not None else getattr(coroutine, "gi_code", None)


def _qualified(coroutine: Any, code: CodeType, name: str) -> str:
    frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
    module = frame.f_globals.get("__name__") if frame is not None else None
    module = module or getattr(coroutine, "__module__", None)  # of an extension module the frame has no globals
    return f"{module or basename(code.co_filename).removesuffix('.py')}.{name}"


def _place(code: CodeType) -> Place:
    return code.co_qualname, code.co_filename, code.co_firstlineno


def _protocol_type(transport: Any) -> Any:
    protocol: Any = getattr(transport, "_protocol", None)
    if type(protocol).__module__ == "asyncio.sslproto":
        protocol = getattr(protocol, "_app_protocol", protocol)
    return None if protocol is None else cast(Any, type(protocol))


def _called(protocol: Any) -> str:
    if issubclass(protocol, BufferedProtocol):
        return "buffer_updated"
    return "datagram_received" if not hasattr(protocol, "data_received") else "data_received"


def _kind(handle: Handle | None) -> StepKind:
    if handle is None:
        return "callback"
    if isinstance(handle, TimerHandle):
        return "timer"
    selector = getattr(getattr(handle, "_loop", None), "_selector", None)
    watched: Any = selector.get_map() if selector is not None else None
    if watched and len(by_name) < MAX_TYPES:
        data: Any
        for data in [key.data for key in tuple(watched.values())]:
            if isinstance(data, tuple) and id(handle) in map(id, cast(Any, data)):  # a user's may compare as it likes
                return "io"
    return "callback"
