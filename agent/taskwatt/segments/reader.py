"""The other side of a segment: a file that a hostile, torn or dying process may have written.

Reads with `pread` (a mapping of a file that someone truncates is a SIGBUS). Whatever the bytes say, the answer is
records whose checksum holds, and a count of what did not.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, cast, get_args

from taskwatt.observations import OTHER, OUTCOMES, STATES, CodeSite, ProcessClass
from taskwatt.segments import layout

_FLOCK = struct.Struct("hhqqi4x")
_OPEN: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Never follows a link out of the directory, never waits for the other end of a FIFO."""

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
    record: Drained


class Cell(NamedTuple):
    """Totals of attempts that found the ring full."""

    task: str
    outcome: int
    state: int
    attempts: int
    firsts: int
    repeats: int
    cpu: tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Progress:
    head: int
    finished_no: int
    cpu_at_exit: float
    startup_cpu: float
    none_cpu: float


@dataclass(frozen=True, slots=True)
class Counters:
    in_cells: int
    strings_refused: int
    spills_refused: int
    hook_errors: int
    span_mode: int


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
        self.name = f"{path.parent.name}/{path.name}"
        self._strings: list[str] = []
        self._strings_end = layout.STRINGS_AT
        tail, spilled, _ = layout.READER.unpack(self._bytes(layout.READER_AT, layout.READER.size))
        newest = self.progress().head + layout.RING_SLOTS
        self._next = max(1, tail if tail <= newest else newest - 2 * layout.RING_SLOTS)
        self._spill_tail = spilled if spilled < _MOST else 0
        self._stuck_at = 0
        self._bad_cells = False
        self.damaged = 0
        """Records that were reserved but never finished, or whose checksum does not hold."""
        self.last_attempt_no = 0
        """Highest attempt number drained."""

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

    def alive(self) -> bool:
        """Does the writing process still hold its lock? (Its pid may have been reused by another.)"""
        if self._own:
            return True
        query = _FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0)
        answer = fcntl.fcntl(self.descriptor, fcntl.F_GETLK, query)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def claim(self) -> bool:
        """Take a dead process's lock, so that only one survivor recovers it."""
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def drain(self, limit: int = layout.RING_SLOTS, *, ended: bool = False) -> list[Drained]:
        """Records after the last drained one, oldest first.

        `ended`: the writer is dead, so nothing more will be finished.
        """
        head = min(self.progress().head, self._next + layout.RING_SLOTS)
        found: list[Drained] = []
        while len(found) < limit:
            chunk = self._chunk(min(limit - len(found), layout.RING_SLOTS - self._next % layout.RING_SLOTS))
            before = self._next
            for at in range(0, len(chunk), layout.SLOT):
                record = self._parse(chunk, at)
                if record is None:
                    break
                found.append(record)
                self._next += 1
            if self._next > before:
                self._stuck_at = 0
                if self._next - before < len(chunk) // layout.SLOT:
                    continue
                if len(chunk) < layout.SLOT or len(chunk) == layout.SLOT:
                    continue
            elif self._next <= head and (ended or self._stuck_at == self._next):
                self.damaged += 1
                self._next += 1
                self._stuck_at = 0
            else:
                self._stuck_at = self._next if self._next <= head else 0
                break
        return found

    def _chunk(self, slots: int) -> bytes:
        """One slot first: an idle ring costs one small read."""
        at = layout.RING_AT + (self._next % layout.RING_SLOTS) * layout.SLOT
        first = self._bytes(at, layout.SLOT)
        if int.from_bytes(first[:8], "little") != self._next or slots == 1:
            return first
        return self._bytes(at, slots * layout.SLOT)

    def commit(self) -> None:
        """Give the drained slots back to the writer: call only when their records are kept elsewhere."""
        os.pwrite(self.descriptor, struct.pack("<QQ", self._next, self._spill_tail), layout.READER_AT)

    def skip_to(self, sequence: int) -> None:
        """Records before `sequence` were already kept (a predecessor died between keeping and committing)."""
        self._next = max(self._next, sequence)

    def ask_for_code(self, until_ns: int) -> None:
        os.pwrite(self.descriptor, struct.pack("<Q", until_ns), layout.READER_AT + 16)

    def progress(self) -> Progress:
        head, finished_no, *cpu = layout.PROGRESS.unpack(self._bytes(layout.PROGRESS_AT, layout.PROGRESS.size))
        at_exit, startup, none = (seconds if 0 <= seconds < _LONGEST_S else 0.0 for seconds in cpu)
        return Progress(min(head, _MOST), finished_no, at_exit, startup, none)

    def counters(self) -> Counters:
        counted = layout.COUNTERS.unpack(self._bytes(layout.COUNTERS_AT, layout.COUNTERS.size))
        return Counters(*(min(count, _MOST) for count in counted[2:7]))

    def in_flight(self) -> InFlight | None:
        """What runs now, or ran when the process died; None when the last begun attempt has finished."""
        size = layout.IN_FLIGHT.size + layout.RECORD.size
        for _ in range(3):
            raw = self._bytes(layout.IN_FLIGHT_AT, size)
            crc, attempt_no, cpu_at_start, children_at_start = layout.IN_FLIGHT.unpack_from(raw)
            if attempt_no and zlib.crc32(raw[4:]) == crc:
                if attempt_no <= max(self.last_attempt_no, self.progress().finished_no):
                    return None
                record = self._resolve(0, raw[layout.IN_FLIGHT.size :])
                return InFlight(attempt_no, cpu_at_start, children_at_start, record)
        return None

    def cells(self) -> list[Cell]:
        """Totals of attempts that found the ring full, since the segment began."""
        count = layout.COUNTERS.unpack(self._bytes(layout.COUNTERS_AT, layout.COUNTERS.size))[1]
        count = min(count, layout.CELL_SLOTS)
        raw = self._bytes(layout.CELLS_AT, count * layout.CELL.size)
        cells: list[Cell] = []
        for task, outcome, state, _, attempts, firsts, repeats, *cpu in layout.CELL.iter_unpack(raw):
            if attempts and not _plausible(outcome, state, (attempts, firsts, repeats), cpu):
                self.damaged += not self._bad_cells
                self._bad_cells = True
            elif attempts:
                business, serialization, gc, framework, agent, subprocesses = cpu
                split = (business, serialization, gc, framework, agent, subprocesses)
                cells.append(Cell(self._string(task), outcome, state, attempts, firsts, repeats, split))
        return cells

    def code(self) -> list[CodeSite]:
        """Lines that were sampled on request."""
        raw = self._bytes(layout.CODE_AT, layout.CODE.size * layout.CODE_SLOTS)
        sites: list[CodeSite] = []
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

    def _parse(self, chunk: bytes, at: int) -> Drained | None:
        sequence, crc = layout.HEAD.unpack_from(chunk, at)
        if sequence != self._next:
            return None
        payload = chunk[at + layout.HEAD.size : at + layout.HEAD.size + layout.RECORD.size]
        if zlib.crc32(payload, sequence & 0xFFFFFFFF) != crc:
            return None
        return self._resolve(sequence, payload)

    def _resolve(self, sequence: int, payload: bytes) -> Drained:
        fields = layout.RECORD.unpack(payload)
        spill_length, spill_at = fields[-2], fields[-1]
        return Drained(
            self.name,
            sequence,
            payload,
            self._string(fields[2]),
            self._string(fields[25]),
            self._string(fields[29]) if fields[29] != layout.NO_STRING else "",
            self._spilled(spill_at, spill_length) if spill_length else b"",
        )

    def _spilled(self, at: int, length: int) -> bytes:
        inside = 4 <= length <= layout.SPILL_MAX + 4 and at % layout.SPILL_SIZE + length <= layout.SPILL_SIZE
        if not inside or at > _MOST:
            self.damaged += 1
            return b""
        raw = self._bytes(layout.SPILL_AT + at % layout.SPILL_SIZE, length)
        self._spill_tail = max(self._spill_tail, at + length)
        if zlib.crc32(raw[4:]) != int.from_bytes(raw[:4], "little"):
            self.damaged += 1
            return b""
        return raw[4:]

    def _string(self, index: int) -> str:
        if index < len(self._strings):
            return self._strings[index]
        if index != layout.NO_STRING:
            self._load_strings()
        return self._strings[index] if index < len(self._strings) else OTHER

    def _load_strings(self) -> None:
        count = layout.COUNTERS.unpack(self._bytes(layout.COUNTERS_AT, layout.COUNTERS.size))[0]
        end = layout.STRINGS_AT + layout.STRINGS_SIZE
        raw = self._bytes(self._strings_end, end - self._strings_end)
        at = 0
        while len(self._strings) < count and at + 2 <= len(raw):
            length = int.from_bytes(raw[at : at + 2], "little")
            if length > layout.STRING_MAX or at + 2 + length > len(raw):
                break
            self._strings.append(_text(raw[at + 2 : at + 2 + length]))
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
