"""Every TASKWATT_* environment variable, once.

Endpoint, service name, sampler, exporters and intervals are OpenTelemetry's own OTEL_* variables and not repeated here.
A value that makes no sense is named in one log line, and the default holds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, cast, get_args

from taskwatt._autostart import FALSE, TRUE
from taskwatt.observations import ProcessClass

log = logging.getLogger("taskwatt")

T = TypeVar("T")

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment asks for. `from_environ` is the way to make one."""

    enabled: bool = False
    """TASKWATT_ENABLED: the switch. 1, true, yes, on; or 0, false, no, off."""
    directory: Path | None = None
    """TASKWATT_DIR: the private directory of segments and history, made absolute; None: shared memory or temporary."""
    accelerator: Literal["auto", "0"] = "auto"
    """TASKWATT_ACCELERATOR: the parts in C; 0 keeps to pure Python."""
    aiomonitor: bool = False
    """TASKWATT_AIOMONITOR: add the agent's commands to aiomonitor's console."""
    log_level: str | None = None
    """TASKWATT_LOG_LEVEL: level of the logger `taskwatt`; None leaves it to the application."""
    stall_threshold_s: float = 0.1
    """TASKWATT_STALL_THRESHOLD: seconds that one step may hold an event loop before its stack is taken."""
    process_class: ProcessClass | None = None
    """TASKWATT_PROCESS_CLASS: web, worker, scheduler or job; None: what evidently runs."""
    excluded_tasks: tuple[str, ...] = ()
    """TASKWATT_EXCLUDED_TASKS: globs of task names, comma-separated, that get no span. The ledger keeps them."""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read all variables; never raises. Each bad value is logged once a process."""

        def read(name: str, convert: Callable[[str], T], default: T) -> T:
            text = environ.get(name, "").strip()
            if not text:
                return default
            try:
                return convert(text)
            except ValueError as error:
                _name_once(name, text, error, default)
                return default

        return cls(
            enabled=read("TASKWATT_ENABLED", _switch, False),
            directory=read("TASKWATT_DIR", _directory, None),
            accelerator=read("TASKWATT_ACCELERATOR", _accelerator, "auto"),
            aiomonitor=read("TASKWATT_AIOMONITOR", _switch, False),
            log_level=read("TASKWATT_LOG_LEVEL", _log_level, None),
            stall_threshold_s=read("TASKWATT_STALL_THRESHOLD", _seconds, 0.1),
            process_class=read("TASKWATT_PROCESS_CLASS", _process_class, None),
            excluded_tasks=read("TASKWATT_EXCLUDED_TASKS", _globs, ()),
        )


def refuses_accelerator(environ: Mapping[str, str]) -> bool:
    """Is TASKWATT_ACCELERATOR 0? Names no bad value: for those who must know before a program's logging is set up."""
    return environ.get("TASKWATT_ACCELERATOR", "").strip() == "0"


_named: set[tuple[str, str]] = set()


def _name_once(name: str, text: str, error: ValueError, default: object) -> None:
    if (name, text) not in _named:
        _named.add((name, text))
        shown = "unset" if default is None or default == () else default
        log.warning("%s=%.100r is not %s; the default (%s) is used", name, text, error, shown)


def _switch(text: str) -> bool:
    word = text.lower()
    if word not in TRUE | FALSE:
        raise ValueError("one of 1, true, yes, on, 0, false, no, off")
    return word in TRUE


def _directory(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except (RuntimeError, OSError):
        raise ValueError("a path that can be made absolute") from None


def _accelerator(text: str) -> Literal["auto", "0"]:
    return cast(Literal["auto", "0"], _one_of(("auto", "0"), text.lower()))


def _log_level(text: str) -> str:
    return _one_of(LOG_LEVELS, text.upper())


def _process_class(text: str) -> ProcessClass:
    return cast(ProcessClass, _one_of(get_args(ProcessClass), text.lower()))


def _one_of(words: tuple[str, ...], text: str) -> str:
    if text not in words:
        raise ValueError(f"one of {', '.join(words)}")
    return text


def _seconds(text: str) -> float:
    problem = "a number of seconds above 0"
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError(problem) from None
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(problem)
    return seconds


def _globs(text: str) -> tuple[str, ...]:
    return tuple(glob for glob in map(str.strip, text.split(",")) if glob)
