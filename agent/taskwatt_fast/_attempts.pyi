from collections.abc import Callable, Mapping
from typing import Any

def prepare(
    parts: dict[str, Any],
    layout: tuple[int, ...],
    described: str,
    provider_named: bool,
    waited_s: float,
    threads_min_s: float,
    subprocess_min_s: float,
    hook_every: int,
    useful: int,
    success: int,
) -> None: ...
def methods(recorders: type, /) -> Mapping[str, Any]: ...
def crc32(data: bytes, before: int = 0, /) -> int: ...

class Timed:
    def __init__(
        self,
        function: Callable[..., Any],
        small: int = 0,
        subject: int = 0,
        announce: Callable[[], object] | None = None,
    ) -> None: ...
    def __call__(self, *arguments: Any, **names: Any) -> Any: ...
    def __getattr__(self, name: str) -> Any: ...
