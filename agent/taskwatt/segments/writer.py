"""The hot side of a segment: plain numbers into mapped memory, no lock, no queue, no socket."""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
import struct
import threading
import time
import zlib
from pathlib import Path

from taskwatt import clocks
from taskwatt.observations import ProcessClass
from taskwatt.segments import layout
from taskwatt.segments.directory import reserve

_crc32 = zlib.crc32
_pack_head = layout.HEAD.pack
_pack_progress = layout.PROGRESS.pack
_pack_counters = layout.COUNTERS.pack
_pack_in_flight = struct.Struct(layout.IN_FLIGHT.format.replace("I", "", 1)).pack
_pack_body_into = layout.BODY.pack_into
_RECORD_SIZE = layout.HEAD.size + layout.RECORD.size

# `pack_into` would clear the bytes first, and a reader could meet the zeros: these are copied in at once instead.
_PROGRESS = slice(layout.PROGRESS_AT, layout.PROGRESS_AT + layout.PROGRESS.size)
_COUNTERS = slice(layout.COUNTERS_AT, layout.COUNTERS_AT + layout.COUNTERS.size)
_IN_FLIGHT = slice(layout.IN_FLIGHT_AT, layout.IN_FLIGHT_AT + layout.IN_FLIGHT.size + layout.RECORD.size)
_TAIL = slice(layout.READER_AT, layout.READER_AT + 8)
_ASKED = slice(layout.READER_AT + 8, layout.READER_AT + 16)

# Places in layout.COUNTERS.
_STRINGS, _CELLS, _IN_CELLS, _STRINGS_REFUSED, _SPILLS_REFUSED, HOOK_ERRORS, _SPAN_MODE = range(7)


_REFUSED_MAX = 4096
"""Names remembered as refused; beyond that they are refused anew each time, uncounted, and cost no memory."""


class SegmentWriter:
    """Creates the file, holds its lock while the process lives, and writes records into it.

    The lock (POSIX, so children do not inherit it) is what tells readers that the process is alive. Closing *any* other
    descriptor of this file in this process would drop it: readers in the same process use `descriptor`.
    """

    __slots__ = (
        "_cells", "_counts", "_full", "_head", "_map", "_naming", "_sequence", "_slow", "_spill_head", "_strings",
        "_strings_end", "_tail", "cpu_at_exit", "descriptor", "finished_no", "none_cpu", "path", "pid", "process_class",
        "role", "startup_cpu",
    )  # fmt: skip

    def __init__(self, path: Path, role: int, process_class: ProcessClass) -> None:
        """Raises OSError: no room, not writable, already there."""
        self.path = path
        self.role = role
        self.process_class: ProcessClass = process_class
        self.pid = os.getpid()
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            reserve(self.descriptor, layout.SIZE)
            self._map = mmap.mmap(self.descriptor, layout.SIZE)
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(self.descriptor)
            path.unlink(missing_ok=True)
            raise
        self._sequence = itertools.count(1)
        self._tail = 1
        self._head = 0
        self._strings: dict[str, int] = {}
        self._strings_end = layout.STRINGS_AT
        self._full = layout.RING_SLOTS - layout.RING_MARGIN - 1
        self._naming = False
        self._cells: dict[tuple[int, int, int], int] = {}
        self._spill_head = 0
        self._slow = threading.RLock()  # a signal handler of the user's may publish while its own thread holds it
        self._counts = [0] * 7
        self.finished_no = 0
        self.startup_cpu = 0.0
        self.none_cpu = 0.0
        self.cpu_at_exit = 0.0
        layout.READER.pack_into(self._map, layout.READER_AT, 1, 0)
        layout.IDENTITY.pack_into(
            self._map,
            0,
            layout.MAGIC,
            layout.VERSION,
            self.pid,
            clocks.start_time(self.pid) or 0,
            clocks.pid_namespace(),
            layout.boot_bytes(clocks.boot_id()),
            time.time_ns(),
            time.monotonic(),
            role,
            process_class.encode(),
        )

    def reclassify(self, process_class: ProcessClass) -> None:
        """What the process was taken for when it began has turned out to be something else."""
        identity = layout.IDENTITY.unpack_from(self._map, 0)
        layout.IDENTITY.pack_into(self._map, 0, *identity[:-1], process_class.encode())

    def string(self, name: str) -> int:
        """The index of `name` in the string table; NO_STRING when the table is full (readers show `other`)."""
        index = self._strings.get(name)
        return index if index is not None else self._add_string(name)

    def put(self, payload: bytes, attempt_no: int, cpu_at_exit: float) -> bool:
        """Write one record; False when the ring is full. Any thread.

        `attempt_no` 0 for records that are not attempts.
        """
        if self._head - self._tail >= self._full:
            self._tail = int.from_bytes(self._map[_TAIL], "little")
            if self._head - self._tail >= self._full:
                return False
        sequence = next(self._sequence)
        at = layout.RING_AT + (sequence % layout.RING_SLOTS) * layout.SLOT
        self._map[at : at + _RECORD_SIZE] = _pack_head(sequence, _crc32(payload, sequence & 0xFFFFFFFF)) + payload
        self._head = sequence
        if attempt_no:
            self.finished_no = attempt_no
            self.cpu_at_exit = cpu_at_exit
        self._map[_PROGRESS] = _pack_progress(
            sequence, self.finished_no, self.cpu_at_exit, self.startup_cpu, self.none_cpu
        )
        return True

    def progress(self) -> None:
        self._map[_PROGRESS] = _pack_progress(
            self._head, self.finished_no, self.cpu_at_exit, self.startup_cpu, self.none_cpu
        )

    def begin(self, payload: bytes, attempt_no: int, cpu_at_start: float, children_at_start: float) -> None:
        """Note the attempt that now runs. It counts as in flight until a record with its number is written."""
        rest = _pack_in_flight(attempt_no, cpu_at_start, children_at_start) + payload
        self._map[_IN_FLIGHT] = _crc32(rest).to_bytes(4, "little") + rest

    def body(self, attempt_no: int, cpu: float) -> None:
        """Note that the body of the attempt in flight begins."""
        _pack_body_into(self._map, layout.BODY_AT, attempt_no, cpu)

    def overflow(
        self, key: tuple[int, int, int], attempt_no: int, cpu_at_exit: float, numbers: tuple[float, ...]
    ) -> None:
        """Keep the totals of an attempt for which the ring had no room.

        `key` is task string, outcome, state; `numbers` are firsts, repeats and the six CPU figures.
        """
        with self._slow:
            slot = self._cells.get(key)
            if slot is None:
                slot = len(self._cells)
                if slot < layout.CELL_SLOTS - 1:
                    self._cells[key] = slot
                self._counts[_CELLS] = slot + 1
            if slot == layout.CELL_SLOTS - 1:
                key = (layout.NO_STRING, 0, 0)
            at = layout.CELLS_AT + slot * layout.CELL.size
            old = layout.CELL.unpack_from(self._map, at)[4:]
            firsts, repeats, *cpu = numbers
            sums = (was + more for was, more in zip(old, (1, int(firsts), int(repeats), *cpu), strict=True))
            rest = layout.CELL.pack(0, *key, *sums)[4:]
            self._map[at : at + layout.CELL.size] = _crc32(rest).to_bytes(4, "little") + rest
            self.count(_IN_CELLS)
            self.finished_no = attempt_no
            self.cpu_at_exit = cpu_at_exit
            self.progress()

    def spill(self, data: bytes) -> tuple[int, int]:
        """Put variable-length data beside a record: (offset, length), or (0, 0) when it is too long (counted).

        The newest overwrites the oldest; a reader that comes too late sees that by the checksum.
        """
        if len(data) > layout.SPILL_MAX:
            self.count(_SPILLS_REFUSED)
            return 0, 0
        length = 4 + len(data)
        with self._slow:
            start = self._spill_head
            if start % layout.SPILL_SIZE + length > layout.SPILL_SIZE:
                start += layout.SPILL_SIZE - start % layout.SPILL_SIZE
            self._spill_head = start + length
        at = layout.SPILL_AT + start % layout.SPILL_SIZE
        self._map[at : at + length] = _crc32(data, start & 0xFFFFFFFF).to_bytes(4, "little") + data
        return start, length

    def asked_for_code_until(self) -> int:
        """Wall nanoseconds until which the drainer wants code samples; 0 when it does not."""
        return int.from_bytes(self._map[_ASKED], "little")

    def code(self, slot: int, task: int, function: str, file: str, line: int, weight: float, samples: int) -> None:
        """Answer a request for code: the hottest line of one task type."""
        rest = layout.CODE.pack(
            0,
            min(max(line, 0), 0xFFFFFFFF),
            task,
            min(max(samples, 0), 0xFFFF),
            weight,
            function.encode("utf-8", "replace")[:100],
            file.encode("utf-8", "replace")[-200:],
        )[4:]
        at = layout.CODE_AT + (slot % layout.CODE_SLOTS) * layout.CODE.size
        self._map[at : at + layout.CODE.size] = _crc32(rest).to_bytes(4, "little") + rest

    def count(self, which: int, value: int = 1) -> None:
        """Add to a counter, by its place in layout.COUNTERS."""
        self._counts[which] += value
        self._map[_COUNTERS] = _pack_counters(*self._counts)

    def span_mode(self, mode: int) -> None:
        if self._counts[_SPAN_MODE] != mode:
            self.count(_SPAN_MODE, mode - self._counts[_SPAN_MODE])

    def close(self) -> None:
        """Unmap and let go of the lock. The file stays for whoever drains it."""
        self._map.close()
        os.close(self.descriptor)

    def _add_string(self, name: str) -> int:
        with self._slow:
            if name in self._strings:
                return self._strings[name]
            if self._naming:  # a signal handler interrupted this very method
                return layout.NO_STRING
            self._naming = True
            try:
                return self._append_string(name)
            finally:
                self._naming = False

    def _append_string(self, name: str) -> int:
        raw = name.encode("utf-8", "replace")
        if len(raw) > layout.STRING_MAX:
            raw = raw[: layout.STRING_MAX - 9].decode("utf-8", "ignore").encode() + b"~%08x" % _crc32(raw)
        data = len(raw).to_bytes(2, "little") + raw
        end = self._strings_end + len(data)
        if end > layout.STRINGS_AT + layout.STRINGS_SIZE:
            if len(self._strings) - self._counts[_STRINGS] < _REFUSED_MAX:
                self._strings[name] = layout.NO_STRING
                self.count(_STRINGS_REFUSED)
            return layout.NO_STRING
        # Nothing is called from here to the count: a time limit's exception cannot come between and shift all names.
        self._map[self._strings_end : end] = data
        self._strings_end = end
        index = self._strings[name] = self._counts[_STRINGS]
        self._counts[_STRINGS] = index + 1
        self.count(_STRINGS, 0)
        return index
