from asyncio import Future, Handle
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from types import CodeType
from typing import Any, TypeAlias

Coroutines: TypeAlias = tuple[Coroutine[Any, Any, Any], ...]
Tasks: TypeAlias = tuple[Future[Any], ...]

class Figures:
    def __init__(self, owner: object) -> None: ...
    @property
    def owner(self) -> Any: ...
    @property
    def steps(self) -> int: ...
    until_look: int
    def flush(self) -> None: ...

class Clock:
    @property
    def step_since(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def handle(self) -> Any: ...
    @property
    def figures(self) -> Figures | None: ...
    stamped: Any
    alive: int
    detail: bool
    def pause(self) -> None: ...
    def resume(self) -> None: ...

def probe(
    pending: Tasks,
    cancelled: Tasks,
    finished: Tasks,
    failed: Tasks,
    exceptions: tuple[BaseException, ...],
    coroutines: Coroutines,
    created: Coroutines,
    codes: tuple[CodeType, ...],
    names: tuple[str, ...],
    suspended: Coroutines,
    steps: tuple[object, ...],
    stepped: Tasks,
    wakeup: object,
    woken: Future[Any],
    handle: Handle,
    handle_class: type[Handle],
    /,
) -> None: ...
def run_method(
    handle_class: type[Handle],
    original: Callable[[Handle], None],
    failed: Callable[[Handle, BaseException], None],
    last_instruction: int,
    line_number: int,
    /,
) -> Callable[[Handle], None]: ...
def start(
    resolve: Callable[[Any, bool, Any], Figures | None],
    adopt: Callable[[], object] | None,
    look: Callable[[Figures, Any, Any, Any], int] | None,
    slow: Callable[[Clock, Figures, float, float, float], object] | None,
    broken: Callable[[BaseException], bool],
    slow_s: float,
    protocol_calls: tuple[CodeType, ...],
    wrapping_protocol: type,
    pure_steps: tuple[CodeType, ...],
) -> None: ...
def stop() -> None: ...
def hooked() -> int: ...
def use_account(variable: ContextVar[Any] | None, /) -> None: ...
def set_slow(threshold_s: float, /) -> None: ...
def attach(clock: Clock, /) -> None: ...
def detach() -> None: ...
def forget() -> None: ...
def settle() -> None: ...
