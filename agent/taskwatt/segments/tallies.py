"""What event loops counted in a pool child: a small file beside its segment, there only when a loop runs in it.

A snapshot, not a stream: the carrier writes it once a second at the most and when a loop ends, the drainer reads it
with the child's segment and once more when the child has died. Entries are of one size and there is a fixed number of
them, each with its own checksum: a reader that meets one half written keeps what it knew. Whoever got an entry keeps
it, so that no figure goes back; types without one are added up as `other`.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Any, Final, NamedTuple, get_args

from taskwatt.observations import (
    DELAY_BUCKETS,
    ENDED,
    OTHER,
    READY_BUCKETS,
    CoroutineTally,
    ExecutorTally,
    InterpreterTally,
    LoopTally,
    StepKind,
    Tallies,
)
from taskwatt.segments.directory import read_regular, reserve

SUFFIX: Final = ".tallies"
ENTRIES: Final = 128
_LOOPS, _EXECUTORS = 16, 8
_TYPES: Final = ENTRIES - _LOOPS - _EXECUTORS - 2

_MAGIC: Final = b"twtally2"
_HEAD: Final = Struct("<8sI")
"""Magic, number of the snapshot."""
_HEAD_SIZE: Final = 16
_NUMBERS: Final = 46
_ENTRY: Final = Struct(f"<IBBH128s{_NUMBERS}d128s128s128s128s")
"""CRC-32 of the rest, what it is, kind of step, unused, name, figures, four texts."""
SIZE: Final = _HEAD_SIZE + ENTRIES * _ENTRY.size
_COROUTINE, _LOOP, _EXECUTOR, _INTERPRETER, _CARRIER = 1, 2, 3, 4, 5

_STEP_KINDS: Final[tuple[StepKind, ...]] = get_args(StepKind)
_COUNTED: Final = (
    "steps", "cpu_s", "own_cpu_s", "wall_s", "longest_s", "self_wakes", "started", "completed", "failed", "cancelled",
    "never_retrieved", "never_awaited", "destroyed_pending", "delays", "delay_s", "waits", "short_waits", "looks",
    "sleeping", "timed_out", "connecting", "scanning", "scanned", "last", "woke", "at_end",
    "same_line",
)  # fmt: skip
"""Figures of a coroutine type, in their order in an entry; then come two line numbers and pairs of costs."""
_COSTS_AT: Final = len(_COUNTED) + 2
_COSTS: Final = (_NUMBERS - _COSTS_AT) // 2
_OF_LOOP: Final = (
    "running", "iterations", "busy_s", "idle_s", "cpu_s", "run_delay_s", "ready_max", "slow_steps",
    "slow_s", "late_s",
)  # fmt: skip
_DELAY_AT: Final = len(_OF_LOOP)
_READY_AT: Final = _DELAY_AT + len(DELAY_BUCKETS) + 1
_READY_END: Final = _READY_AT + len(READY_BUCKETS) + 1
_OF_EXECUTOR: Final = ("submitted", "wait_s", "queued_now")
_OF_INTERPRETER: Final = ("probes", "late_s", "watched_s", "threads_cpu_s", "waiting_s")
_MOST: Final = 1e15
"""No figure of a process is larger."""

assert _READY_END <= _NUMBERS


class TallyFile:
    """The writing side. One thread writes at a time."""

    def __init__(self, path: Path) -> None:
        """Raises OSError: no room, not writable, already there."""
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            reserve(self._descriptor, SIZE)
        except BaseException:
            os.close(self._descriptor)
            path.unlink(missing_ok=True)
            raise
        self._number = 0
        self._length = 0
        """Of the snapshot before, which the next one overwrites."""
        self._types: dict[str, None] = {}
        self._loops: dict[str, None] = {}

    def write(self, tallies: Tallies) -> None:
        """One snapshot, in place of the one before. Raises OSError."""
        self._number += 1
        entries = [
            *self._coroutines(tallies.coroutines),
            *(_loop(name, one) for name, one in self._kept_loops(tallies.loops).items()),
            *(
                _entry(_EXECUTOR, kind, [getattr(one, field) for field in _OF_EXECUTOR])
                for kind, one in list(tallies.executors.items())[:_EXECUTORS]
            ),
            _entry(_INTERPRETER, "", [*tallies.interpreter[:5]], tallies.interpreter.hottest),
            _entry(_CARRIER, "", [], tallies.carrier[:128], tallies.carrier[128:256]),
        ]
        data = _HEAD.pack(_MAGIC, self._number).ljust(_HEAD_SIZE, b"\0") + b"".join(entries)
        os.pwrite(self._descriptor, data.ljust(self._length, b"\0"), 0)
        self._length = len(data)

    def close(self) -> None:
        """The file stays for whoever drains it."""
        os.close(self._descriptor)

    def _coroutines(self, coroutines: Mapping[str, CoroutineTally]) -> list[bytes]:
        rest: list[CoroutineTally] = []
        found: list[bytes] = []
        for name, one in coroutines.items():
            if name != OTHER and _has_place(name, self._types, _TYPES - 1):
                found.append(_coroutine(name, one))
            else:
                rest.append(one)
        if rest:
            sums: dict[str, Any] = {field: sum(getattr(one, field) for one in rest) for field in _COUNTED}
            sums["longest_s"] = max(one.longest_s for one in rest)
            found.append(_coroutine(OTHER, CoroutineTally("task", **sums)))
        return found

    def _kept_loops(self, loops: Mapping[str, LoopTally]) -> Mapping[str, LoopTally]:
        return {name: one for name, one in loops.items() if name == ENDED or _has_place(name, self._loops, _LOOPS - 1)}


def _has_place(name: str, places: dict[str, None], most: int) -> bool:
    if name not in places:
        if len(places) >= most:
            return False
        places[name] = None
    return True


def _entry(what: int, name: str, numbers: Sequence[float], *texts: str, kind: int = 0) -> bytes:
    padded = [float(number) for number in numbers[:_NUMBERS]] + [0.0] * (_NUMBERS - len(numbers))
    raw = [_raw(text) for text in texts] + [b""] * (4 - len(texts))
    rest = _ENTRY.pack(0, what, kind, 0, _raw(name), *padded, *raw)[4:]
    return zlib.crc32(rest).to_bytes(4, "little") + rest


def _raw(text: str) -> bytes:
    """128 bytes at the most; a longer name ends in a checksum, so that two of them stay two."""
    raw = text.encode("utf-8", "replace")
    return raw if len(raw) <= 128 else raw[:119].decode("utf-8", "ignore").encode() + b"~%08x" % zlib.crc32(raw)


def _coroutine(name: str, one: CoroutineTally) -> bytes:
    resumed, defined = one.resumed_at or ("", "", 0), one.defined_at or ("", "", 0)
    numbers = [getattr(one, field) for field in _COUNTED] + [resumed[2], defined[2]]
    for alive, cpu_s in one.costs[-_COSTS:]:
        numbers += [alive, cpu_s]
    texts = resumed[0], resumed[1][-128:], defined[0], defined[1][-128:]
    return _entry(_COROUTINE, name, numbers, *texts, kind=_STEP_KINDS.index(one.kind))


def _loop(name: str, one: LoopTally) -> bytes:
    return _entry(
        _LOOP, name, [*(getattr(one, field) for field in _OF_LOOP), *one.delay, *one.ready], one.kind, one.partial
    )


class Snapshot(NamedTuple):
    """What a child had counted when it last said so."""

    tallies: Tallies
    anew: bool
    """Is it another one than at the last reading?"""


class TallyReader:
    """The side that trusts nothing: an entry that makes no sense is left out and counted in `damaged`, once a place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        self._bad: set[int] = set()
        self._number = 0
        self._known = Tallies({}, {}, {})

    def read(self, *, ended: bool = False) -> Snapshot | None:
        """None without a file of this kind. One that is just being written says what it said the last time.

        `ended`: nobody writes it any more, so that what is torn stays so.
        """
        try:
            data = read_regular(self.path, SIZE)
        except OSError:
            return None
        if len(data) != SIZE or _HEAD.unpack_from(data)[0] != _MAGIC:
            if ended:
                self._blame(-1)
            return None
        found = _Found({}, {}, {})
        torn = [at for at in range(ENTRIES) if not self._take(data, at, found)]
        if torn and not ended:
            return Snapshot(self._known, anew=False)
        for at in torn:
            self._blame(at)
        number = int(_HEAD.unpack_from(data)[1])
        anew, self._number = number != self._number, number
        before = self._known
        self._known = Tallies(
            {**before.coroutines, **found.coroutines},
            {**before.loops, **found.loops} if torn else found.loops,
            {**before.executors, **found.executors},
            found.interpreter or before.interpreter,
            found.carrier or before.carrier,
        )
        return Snapshot(self._known, anew)

    def _take(self, data: bytes, at: int, found: _Found) -> bool:
        """False when the entry is torn."""
        raw = data[_HEAD_SIZE + at * _ENTRY.size : _HEAD_SIZE + (at + 1) * _ENTRY.size]
        crc, what, kind, _, name, *rest = _ENTRY.unpack(raw)
        if not what and not crc:
            return True
        if zlib.crc32(raw[4:]) != crc:
            return False
        numbers = rest[:_NUMBERS]
        if _plausible(what, kind, numbers):
            found.add(what, kind, _text(name), numbers, [_text(each) for each in rest[_NUMBERS:]])
        else:
            self._blame(at)
        return True

    def _blame(self, at: int) -> None:
        if at not in self._bad:
            self._bad.add(at)
            self.damaged += 1


@dataclass(slots=True)
class _Found:
    coroutines: dict[str, CoroutineTally]
    loops: dict[str, LoopTally]
    executors: dict[str, ExecutorTally]
    interpreter: InterpreterTally | None = None
    carrier: str = ""

    def add(self, what: int, kind: int, name: str, numbers: Sequence[float], texts: Sequence[str]) -> None:
        if what == _COROUTINE:
            self.coroutines[name] = _read_coroutine(kind, numbers, texts)
        elif what == _LOOP:
            self.loops[name] = _read_loop(numbers, texts)
        elif what == _EXECUTOR:
            self.executors[name] = ExecutorTally(**_fields(_OF_EXECUTOR, numbers))
        elif what == _INTERPRETER:
            self.interpreter = InterpreterTally(**_fields(_OF_INTERPRETER, numbers), hottest=texts[0])
        else:
            self.carrier = texts[0] + texts[1]


def _plausible(what: int, kind: int, numbers: Sequence[float]) -> bool:
    if not _COROUTINE <= what <= _CARRIER or kind >= len(_STEP_KINDS):
        return False
    unknown = _OF_LOOP.index("run_delay_s") if what == _LOOP else -1
    return all(0.0 <= each < _MOST or (at == unknown and math.isnan(each)) for at, each in enumerate(numbers))


def _fields(names: Sequence[str], numbers: Sequence[float]) -> dict[str, Any]:
    """Seconds stay what they are, everything else counts."""
    return {name: value if name.endswith("_s") else int(value) for name, value in zip(names, numbers, strict=False)}


def _read_coroutine(kind: int, numbers: Sequence[float], texts: Sequence[str]) -> CoroutineTally:
    lines = numbers[len(_COUNTED) : _COSTS_AT]
    pairs = zip(numbers[_COSTS_AT::2], numbers[_COSTS_AT + 1 :: 2], strict=False)
    return CoroutineTally(
        _STEP_KINDS[kind],
        **_fields(_COUNTED, numbers),
        resumed_at=(texts[0], texts[1], int(lines[0])) if texts[0] else None,
        defined_at=(texts[2], texts[3], int(lines[1])) if texts[2] else None,
        costs=tuple((int(alive), cpu_s) for alive, cpu_s in pairs if alive),
    )


def _read_loop(numbers: Sequence[float], texts: Sequence[str]) -> LoopTally:
    fields = _fields(_OF_LOOP, numbers)
    return LoopTally(
        texts[0],
        **{**fields, "running": bool(fields["running"])},
        delay=tuple(numbers[_DELAY_AT:_READY_AT]),
        ready=tuple(numbers[_READY_AT:_READY_END]),
        partial=texts[1],
    )


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("utf-8", "replace")
