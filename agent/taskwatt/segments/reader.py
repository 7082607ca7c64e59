"""The other side of a segment: a file that a hostile, torn or dying process may have written.

Reads with `pread` (a mapping of a file that someone truncates is a SIGBUS). Whatever the bytes say, the answer is
records whose checksum holds, and a count of what did not.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, cast, get_args

from taskwatt import clocks
from taskwatt.observations import OTHER, OUTCOMES, STATES, CodeSite, Cpu, ProcessClass
from taskwatt.segments import layout

_DARWIN = sys.platform == "darwin"
_FLOCK = struct.Struct("qqihh" if _DARWIN else "hhqqi4x")
"""struct flock: type and whence stand last on macOS."""
_OPEN: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Never follows a link out of the directory, never waits for the other end of a FIFO."""

_PADDING: Final = layout.SLOT - layout.HEAD.size - layout.RECORD.size
_SLOT: Final = struct.Struct(f"{layout.HEAD.format}{layout.RECORD.size}s{_PADDING}x")
_POINTERS: Final = layout.picking("task", "attempt_no", "queue", "publisher", "spill_length", "spill_at")
"""What a record refers to elsewhere in the segment, and its number."""

_MOST: Final = 1 << 48
"""No count and no size in a segment is larger; one that is comes from a torn or hostile file."""
_LONGEST_S: Final = 1e9
"""No time in a segment is longer."""


class Damaged(Exception):
    """A file that is not a segment of this version; the message says what is wrong with it."""


class Drained(NamedTuple):
    """One record as it stood in the ring, with its names resolved: all that a later decode needs."""

    segment: str
    sequence: int
    payload: bytes
    task: str
    queue: str
    publisher: str
    user_data: bytes


class InFlight(NamedTuple):
    """The attempt a process was last seen executing."""

    attempt_no: int
    cpu_at_start: float
    children_at_start: float
    cpu_at_body: float | None
    """None when its body has not begun, or nobody knows when it does."""
    record: Drained


class Cell(NamedTuple):
    """Totals of attempts that found the ring full."""

    slot: int
    """Tells cells apart: the table's `other` and a task of that name are two."""
    task: str
    outcome: int
    state: int
    attempts: int
    firsts: int
    repeats: int
    cpu: Cpu


@dataclass(frozen=True, slots=True)
class Progress:
    head: int
    finished_no: int
    cpu_at_exit: float
    startup_cpu: float
    none_cpu: float


@dataclass(frozen=True, slots=True)
class Counters:
    strings: int
    cells: int
    in_cells: int
    strings_refused: int
    spills_refused: int
    hook_errors: int
    span_mode: int


_NO_CODE: Final = bytes(layout.CODE.size * layout.CODE_SLOTS)


class SegmentReader:
    """Reads one segment; the only writer of its reader area, so one per file at a time."""

    def __init__(self, path: Path, descriptor: int | None = None) -> None:
        """`descriptor`: the writer's own, for a process that reads its own segment (see SegmentWriter).

        Raises Damaged, or OSError when the file cannot be opened.
        """
        self.path = path
        self._own = descriptor is not None
        self.descriptor = os.open(path, _OPEN) if descriptor is None else descriptor
        try:
            self._read_identity()
        except BaseException:
            self.close()
            raise
        self.name = f"{path.parent.name}/{path.name}/{self.created_ns}"
        """Unique: a process that is instrumented a second time makes a second file of the same path."""
        self._strings: list[str] = []
        self._strings_end = layout.STRINGS_AT
        self._stuck_at = 0
        self._bad_cells = False
        self.damaged = 0
        """Records that were reserved but never finished, or whose checksum does not hold."""
        self.spills_lost = 0
        """Records whose spilled data was overwritten before it was read; the records themselves are kept."""
        self._last_attempt_no = 0

    def _read_identity(self) -> None:
        shown = os.fsencode(self.path).decode("utf-8", "replace")
        found = os.fstat(self.descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Damaged(f"{shown} is not a regular file")
        raw = os.pread(self.descriptor, layout.IDENTITY.size, 0)
        if len(raw) < layout.IDENTITY.size:
            raise Damaged(f"{shown} is too short for a segment")
        magic, version, pid, ticks, namespace, boot, created, monotonic, role, process_class = layout.IDENTITY.unpack(
            raw
        )
        if magic != layout.MAGIC:
            raise Damaged(f"{shown} is not a segment")
        if version != layout.VERSION:
            raise Damaged(f"{shown} has layout version {version}, this reader knows {layout.VERSION}")
        if found.st_size != layout.SIZE:
            raise Damaged(f"{shown} has {found.st_size} bytes instead of {layout.SIZE}")
        self.pid: int = pid
        self.start_ticks: int = ticks
        self.pid_namespace: int = namespace
        self.boot: bytes = boot
        self.created_ns: int = created
        self.wall_minus_monotonic_s: float = created / 1e9 - monotonic
        self.role: int = role
        name = _text(process_class)
        self.process_class: ProcessClass = cast(ProcessClass, name) if name in get_args(ProcessClass) else "job"
        tail, _ = layout.READER.unpack(self._bytes(layout.READER_AT, layout.READER.size))
        if tail > self.progress().head + layout.RING_SLOTS:
            raise Damaged(f"{shown} claims to have been read far beyond what was written")
        self._next: int = max(1, tail)

    def alive(self) -> bool:
        """By its lock; a process that closed all its descriptors has lost it and is looked up by pid and start time."""
        return self._own or self._locked() or (self._is_same_process() and not clocks.is_zombie(self.pid))

    def cpu(self) -> float | None:
        """CPU seconds of the writing process, also while it is a zombie; None once the kernel has forgotten it."""
        same = self._own or self._locked() or self._is_same_process()  # the last one reads /proc, which is dear
        return clocks.process_cpu(self.pid) if same else None

    def _locked(self) -> bool:
        kind, whence = fcntl.F_WRLCK, os.SEEK_SET
        query = _FLOCK.pack(*((0, 0, 0, kind, whence) if _DARWIN else (kind, whence, 0, 0, 0)))
        answer = _FLOCK.unpack(fcntl.fcntl(self.descriptor, fcntl.F_GETLK, query))
        return bool(answer[3 if _DARWIN else 0] != fcntl.F_UNLCK)

    def _is_same_process(self) -> bool:
        """A pid alone is reused, and means another process in another namespace."""
        return (
            self.pid_namespace == clocks.pid_namespace()
            and self.boot == layout.boot_bytes(clocks.boot_id())
            and clocks.start_time(self.pid) == self.start_ticks
        )

    def drain(self, limit: int = layout.RING_SLOTS, *, ended: bool = False) -> list[Drained]:
        """Records after the last drained one, oldest first.

        One that was reserved and is not finished holds up those after it until it was met a second time: then its
        writer will not finish it. `ended`: the writer is dead, so nothing more will be finished.
        """
        head = min(self.progress().head, self._next + layout.RING_SLOTS - 1)
        found: list[Drained] = []
        while len(found) < limit:
            records = self._finished(min(limit - len(found), head - self._next + 1))
            if records:
                found.extend(records)
            elif self._next <= head and (ended or self._stuck_at == self._next):
                self.damaged += 1
                self._next += 1
            else:
                self._stuck_at = self._next if self._next <= head else 0
                break
        return found

    def _finished(self, most: int) -> list[Drained]:
        """Records from the next one on, up to the first unfinished one or the end of the ring."""
        slot = self._next % layout.RING_SLOTS
        slots = max(1, min(most, layout.RING_SLOTS - slot))
        chunk = self._bytes(layout.RING_AT + slot * layout.SLOT, slots * layout.SLOT)
        found: list[Drained] = []
        for sequence, crc, payload in _SLOT.iter_unpack(chunk):
            if sequence != self._next or zlib.crc32(payload, sequence & 0xFFFFFFFF) != crc:
                break
            found.append(self._parse(sequence, payload))
            self._next += 1
        return found

    def stirred(self) -> bool:
        """Is there a record that was not drained, or an attempt that runs? Cheap; may say so for nothing."""
        progress = self.progress()
        _, attempt_no, *_ = layout.IN_FLIGHT.unpack(self._bytes(layout.IN_FLIGHT_AT, layout.IN_FLIGHT.size))
        return progress.head >= self._next or attempt_no > progress.finished_no

    def commit(self) -> None:
        """Give the drained slots back to the writer: call only when their records are kept elsewhere."""
        os.pwrite(self.descriptor, struct.pack("<Q", self._next), layout.READER_AT)

    def skip_to(self, sequence: int) -> None:
        """Records before `sequence` were already kept (a predecessor died between keeping and committing)."""
        self._next = max(self._next, sequence)

    def ask_for_code(self, until_ns: int) -> None:
        os.pwrite(self.descriptor, struct.pack("<Q", until_ns), layout.READER_AT + 8)

    def progress(self) -> Progress:
        head, finished_no, *cpu = layout.PROGRESS.unpack(self._bytes(layout.PROGRESS_AT, layout.PROGRESS.size))
        at_exit, startup, none = (seconds if 0 <= seconds < _LONGEST_S else 0.0 for seconds in cpu)
        return Progress(min(head, _MOST), finished_no, at_exit, startup, none)

    def counters(self) -> Counters:
        counted = layout.COUNTERS.unpack(self._bytes(layout.COUNTERS_AT, layout.COUNTERS.size))
        return Counters(*counted) if max(counted) <= _MOST else Counters(*(min(count, _MOST) for count in counted))

    def in_flight(self, *, ended: bool = False) -> InFlight | None:
        """What runs now, or ran when the process died (`ended`); None when the last begun attempt has finished.

        A dead process's note that it had not finished is counted as damaged.
        """
        size = layout.IN_FLIGHT.size + layout.RECORD.size
        raw = bytes(size)
        for _ in range(1 if ended else 3):
            raw = self._bytes(layout.IN_FLIGHT_AT, size)
            crc, attempt_no, cpu_at_start, children_at_start = layout.IN_FLIGHT.unpack_from(raw)
            if attempt_no and zlib.crc32(raw[4:]) == crc:
                if attempt_no <= max(self._last_attempt_no, self.progress().finished_no):
                    return None
                payload = raw[layout.IN_FLIGHT.size :]
                record = self._parse(0, payload)
                number, cpu_at_body = layout.BODY.unpack(self._bytes(layout.BODY_AT, layout.BODY.size))
                begun = number == attempt_no and cpu_at_body >= cpu_at_start
                return InFlight(attempt_no, cpu_at_start, children_at_start, cpu_at_body if begun else None, record)
        self.damaged += ended and any(raw)
        return None

    def cells(self, *, ended: bool = False) -> list[Cell]:
        """Totals of attempts that found the ring full, since the segment began.

        A cell that is just being written is left out; of a dead process (`ended`) it is counted as damaged, and so are
        cells, once, whose figures cannot be.
        """
        raw = self._bytes(layout.CELLS_AT, min(self.counters().cells, layout.CELL_SLOTS) * layout.CELL.size)
        found: list[Cell] = []
        for slot, fields in enumerate(layout.CELL.iter_unpack(raw)):
            crc, task, outcome, state, attempts, firsts, repeats, *cpu = fields
            if zlib.crc32(raw[slot * layout.CELL.size + 4 : (slot + 1) * layout.CELL.size]) != crc:
                self.damaged += ended
            elif _plausible(outcome, state, (attempts, firsts, repeats), cpu):
                found.append(Cell(slot, self._string(task), outcome, state, attempts, firsts, repeats, Cpu(*cpu)))
            else:
                self.damaged += not self._bad_cells
                self._bad_cells = True
        return found

    def cells_read(self) -> dict[int, int]:
        """How many attempts were taken from each of the first cells, by slot, also by a drainer that died since."""
        return dict(enumerate(layout.CELLS_READ.unpack(self._bytes(layout.CELLS_READ_AT, layout.CELLS_READ.size))))

    def commit_cells(self, attempts: Mapping[int, int]) -> None:
        """Note how many were taken, by slot: call only when they are kept elsewhere."""
        read = self.cells_read()
        counts = (min(max(before, attempts.get(slot, 0)), 0xFFFFFFFF) for slot, before in read.items())
        os.pwrite(self.descriptor, layout.CELLS_READ.pack(*counts), layout.CELLS_READ_AT)

    def code(self) -> list[CodeSite]:
        """Lines that were sampled on request."""
        raw = self._bytes(layout.CODE_AT, len(_NO_CODE))
        sites: list[CodeSite] = []
        if raw == _NO_CODE:
            return sites
        for at in range(0, len(raw), layout.CODE.size):
            crc, line, task, samples, weight, function, file = layout.CODE.unpack_from(raw, at)
            if samples and zlib.crc32(raw[at + 4 : at + layout.CODE.size]) == crc:
                sites.append(CodeSite(self._string(task), _text(function), _text(file), line, weight, samples))
        return sites

    def close(self) -> None:
        if not self._own:
            os.close(self.descriptor)

    def _bytes(self, at: int, size: int) -> bytes:
        raw = os.pread(self.descriptor, size, at)
        return raw if len(raw) == size else raw.ljust(size, b"\0")

    def _parse(self, sequence: int, payload: bytes) -> Drained:
        task, attempt_no, queue, publisher, length, at = _POINTERS.unpack(payload)
        if attempt_no > self._last_attempt_no and sequence:
            self._last_attempt_no = attempt_no
        user_data = b""
        if length:
            user_data = self._spilled(at, length)
            self.spills_lost += sequence > 0 and not user_data
        return Drained(
            self.name,
            sequence,
            payload,
            self._string(task),
            self._string(queue),
            self._string(publisher) if publisher != layout.NO_STRING else "",
            user_data,
        )

    def _spilled(self, at: int, length: int) -> bytes:
        """Empty when it was overwritten since."""
        if length < 4 or at % layout.SPILL_SIZE + length > layout.SPILL_SIZE:
            return b""
        raw = self._bytes(layout.SPILL_AT + at % layout.SPILL_SIZE, length)
        intact = zlib.crc32(raw[4:], at & 0xFFFFFFFF) == int.from_bytes(raw[:4], "little")
        return raw[4:] if intact else b""

    def _string(self, index: int) -> str:
        if index < len(self._strings):
            return self._strings[index]
        if index != layout.NO_STRING:
            self._load_strings()
        return self._strings[index] if index < len(self._strings) else OTHER

    def _load_strings(self) -> None:
        count = self.counters().strings
        end = layout.STRINGS_AT + layout.STRINGS_SIZE
        raw = self._bytes(self._strings_end, end - self._strings_end)
        at = 0
        while len(self._strings) < count and at + 2 <= len(raw):
            length = int.from_bytes(raw[at : at + 2], "little")
            if length > layout.STRING_MAX or at + 2 + length > len(raw):
                break
            self._strings.append(raw[at + 2 : at + 2 + length].decode("utf-8", "replace"))
            at += 2 + length
        self._strings_end += at


def _plausible(outcome: int, state: int, counts: Sequence[int], seconds: Sequence[float]) -> bool:
    return (
        outcome < len(OUTCOMES)
        and state < len(STATES)
        and max(counts) < _MOST
        and all(-1.0 < each < _LONGEST_S for each in seconds)
    )


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("utf-8", "replace")
