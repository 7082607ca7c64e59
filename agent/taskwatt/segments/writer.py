"""The hot side of a segment: plain numbers into mapped memory, no lock, no queue, no socket."""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
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
_pack_progress = layout.PROGRESS.pack_into


class SegmentWriter:
    """Creates the file, holds its lock while the process lives, and writes records into it.

    The lock (POSIX, so children do not inherit it) is what tells readers that the process is alive. Closing *any* other
    descriptor of this file in this process would drop it: readers in the same process use `descriptor`.
    """

    def __init__(self, path: Path, role: int, process_class: ProcessClass) -> None:
        """Raises OSError: no room, not writable, already there."""
        self.path = path
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
        self._cells: dict[tuple[int, int, int], int] = {}
        self._spill_head = 0
        self._slow = threading.Lock()
        self._counts = [0] * 8
        self.finished_no = 0
        self.startup_cpu = 0.0
        self.none_cpu = 0.0
        self.cpu_at_exit = 0.0
        layout.READER.pack_into(self._map, layout.READER_AT, 1, 0, 0)
        layout.IDENTITY.pack_into(
            self._map,
            0,
            layout.MAGIC,
            layout.VERSION,
            self.pid,
            clocks.start_time(self.pid) or 0,
            clocks.pid_namespace(),
            bytes.fromhex(clocks.boot_id().replace("-", ""))[:16].ljust(16, b"\0"),
            time.time_ns(),
            time.monotonic(),
            role,
            process_class.encode(),
        )

    def string(self, name: str) -> int:
        """The index of `name` in the string table; NO_STRING when the table is full (readers show `other`)."""
        index = self._strings.get(name)
        return index if index is not None else self._add_string(name)

    def put(self, payload: bytes, attempt_no: int, cpu_at_exit: float) -> bool:
        """Write one record; False when the ring is full. Any thread.

        `attempt_no` 0 for records that are not attempts.
        """
        if self._head - self._tail >= layout.RING_SLOTS - layout.RING_MARGIN:
            self._tail = int.from_bytes(self._map[layout.READER_AT : layout.READER_AT + 8], "little")
            if self._head - self._tail >= layout.RING_SLOTS - layout.RING_MARGIN:
                return False
        sequence = next(self._sequence)
        at = layout.RING_AT + (sequence % layout.RING_SLOTS) * layout.SLOT
        record = _pack_head(sequence, _crc32(payload, sequence & 0xFFFFFFFF)) + payload
        self._map[at : at + len(record)] = record
        self._head = sequence
        if attempt_no:
            self.finished_no = attempt_no
            self.cpu_at_exit = cpu_at_exit
        self.progress()
        return True

    def progress(self) -> None:
        _pack_progress(
            self._map,
            layout.PROGRESS_AT,
            self._head,
            self.finished_no,
            self.cpu_at_exit,
            self.startup_cpu,
            self.none_cpu,
        )

    def begin(self, payload: bytes, attempt_no: int, cpu_at_start: float, children_at_start: float) -> None:
        """Note the attempt that now runs. It counts as in flight until a record with its number is written."""
        rest = layout.IN_FLIGHT.pack(0, attempt_no, cpu_at_start, children_at_start)[4:] + payload
        at = layout.IN_FLIGHT_AT
        self._map[at : at + 4 + len(rest)] = _crc32(rest).to_bytes(4, "little") + rest

    def body(self, attempt_no: int, cpu: float) -> None:
        """Note that the body of the attempt in flight begins."""
        layout.BODY.pack_into(self._map, layout.BODY_AT, attempt_no, cpu)

    def overflow(
        self, key: tuple[int, int, int], attempt_no: int, cpu_at_exit: float, numbers: tuple[float, ...]
    ) -> None:
        """Keep the totals of an attempt for which the ring had no room.

        `key` is task string, outcome, state; `numbers` are firsts, repeats and the six CPU figures.
        """
        with self._slow:
            slot = self._cells.get(key)
            if slot is None:
                slot = min(len(self._cells), layout.CELL_SLOTS - 1)
                key = key if slot < layout.CELL_SLOTS - 1 else (layout.NO_STRING, 0, 0)
                self._cells[key] = slot
                self._counts[1] = slot + 1
            at = layout.CELLS_AT + slot * layout.CELL.size
            old = layout.CELL.unpack_from(self._map, at)
            firsts, repeats, *cpu = numbers
            layout.CELL.pack_into(
                self._map,
                at,
                *key,
                0,
                old[4] + 1,
                old[5] + int(firsts),
                old[6] + int(repeats),
                *(was + now for was, now in zip(old[7:], cpu, strict=True)),
            )
            self.count(2)
            self.finished_no = attempt_no
            self.cpu_at_exit = cpu_at_exit
            self.progress()

    def spill(self, data: bytes) -> tuple[int, int]:
        """Put variable-length data beside a record: (offset, length), or (0, 0) when there is no room (counted)."""
        with self._slow:
            framed = _crc32(data).to_bytes(4, "little") + data
            consumed = int.from_bytes(self._map[layout.READER_AT + 8 : layout.READER_AT + 16], "little")
            start = self._spill_head
            if start % layout.SPILL_SIZE + len(framed) > layout.SPILL_SIZE:
                start += layout.SPILL_SIZE - start % layout.SPILL_SIZE
            if len(data) > layout.SPILL_MAX or start + len(framed) - consumed > layout.SPILL_SIZE:
                self.count(4)
                return 0, 0
            at = layout.SPILL_AT + start % layout.SPILL_SIZE
            self._map[at : at + len(framed)] = framed
            self._spill_head = start + len(framed)
            return start, len(framed)

    def asked_for_code_until(self) -> int:
        """Wall nanoseconds until which the drainer wants code samples; 0 when it does not."""
        return int.from_bytes(self._map[layout.READER_AT + 16 : layout.READER_AT + 24], "little")

    def code(self, slot: int, task: int, function: str, file: str, line: int, weight: float, samples: int) -> None:
        """Answer a request for code: the hottest line of one task type."""
        rest = layout.CODE.pack(
            0,
            line & 0xFFFFFFFF,
            task,
            min(samples, 0xFFFF),
            weight,
            function.encode("utf-8", "replace")[:100],
            file.encode("utf-8", "replace")[-200:],
        )[4:]
        at = layout.CODE_AT + (slot % layout.CODE_SLOTS) * layout.CODE.size
        self._map[at : at + layout.CODE.size] = _crc32(rest).to_bytes(4, "little") + rest

    def count(self, which: int, value: int = 1) -> None:
        """Add to a counter, by its place in layout.COUNTERS."""
        self._counts[which] += value
        layout.COUNTERS.pack_into(self._map, layout.COUNTERS_AT, *self._counts)

    def span_mode(self, mode: int) -> None:
        if self._counts[6] != mode:
            self.count(6, mode - self._counts[6])

    def close(self) -> None:
        """Unmap and let go of the lock. The file stays for whoever drains it."""
        self._map.close()
        os.close(self.descriptor)

    def _add_string(self, name: str) -> int:
        with self._slow:
            if name in self._strings:
                return self._strings[name]
            raw = name.encode("utf-8", "replace")
            if len(raw) > layout.STRING_MAX:
                raw = raw[: layout.STRING_MAX - 9].decode("utf-8", "ignore").encode() + b"~%08x" % _crc32(raw)
            end = self._strings_end + 2 + len(raw)
            if end > layout.STRINGS_AT + layout.STRINGS_SIZE:
                self._counts[3] += 0 if len(self._strings) > 4096 else 1
                if len(self._strings) <= 4096:
                    self._strings[name] = layout.NO_STRING
                self.count(3, 0)
                return layout.NO_STRING
            self._map[self._strings_end : end] = len(raw).to_bytes(2, "little") + raw
            self._strings_end = end
            index = self._counts[0]
            self._strings[name] = index
            self.count(0)
            return index
