"""Records drained from segments and not yet accepted by a receiver, on disk.

Drain, append here, commit the segment's tail: whatever dies in between, a record is either still in the ring or here,
and its segment and sequence tell a repeated one. Two marks say how far the span receiver and the metric receiver have
got; what lies before both is deleted. The journal is bounded; what exceeds the bound is dropped oldest first, and
counted.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

from taskwatt.segments import layout
from taskwatt.segments.directory import read_regular
from taskwatt.segments.reader import Drained
from taskwatt.segments.records import decode_taken

CHUNK_BYTES: Final = 1 << 18
MAX_BYTES: Final = 16 << 20
"""About 45,000 attempts: four minutes of a collector that is down at 200 attempts a second."""

_FRAME: Final = struct.Struct("<IQHHHHHH")
"""CRC-32 of the rest, sequence, lengths of segment name, payload, task, queue, publisher, user data.

The checksum begins with the version of the segments' layout: what another version left is damaged, not misread.
"""
_MARKS: Final = struct.Struct("<QQI")
"""What the span receiver and the metric receiver have, and the CRC-32 of both."""


@dataclass(slots=True)
class _Chunk:
    path: Path
    first: int
    count: int = 0
    size: int = 0
    resume: tuple[int, int] = (0, 0)
    """Number of a record, and the offset behind it: where the last reader stopped. A chunk is read in several goes."""


class Journal:
    """Append-only, numbered from 1. One writing process; its successor opens what a dead one left."""

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        """`max_bytes`: MAX_BYTES unless given."""
        self.folder = folder
        self._max_bytes = MAX_BYTES if max_bytes is None else max_bytes
        self._chunks: deque[_Chunk] = deque()
        self._file: int | None = None
        self._lock = threading.Lock()
        self.last = 0
        """Number of the newest record."""
        self._lost = 0
        self._sending = 0
        self.highest: dict[str, int] = {}
        """Segment name -> highest sequence kept."""
        self.settled: set[str] = set()
        """Segments whose killed attempt is kept (those records have no sequence)."""
        self.spans, self.metrics = self._read_marks()
        self.taken: dict[tuple[str, int], int] = {}
        """Segment, slot -> attempts taken from that cell and kept."""
        for path in sorted(folder.glob("journal-*.bin")):
            self._adopt(path)
        self.last = max(self.last, self.spans, self.metrics)  # numbers that were given out are never given out again

    def append(self, records: Iterable[Drained]) -> None:
        """Keep records; on a full disk they are counted as dropped. Never raises."""
        frames: list[bytes] = []
        encoded: dict[str, bytes] = {}  # one tick's records have few names
        for record in records:
            frames.append(_pack(record, encoded))
            self._note(record)
        with self._lock:
            while frames:  # by the chunk, or one burst would not be bound by the bound
                sizes = accumulate(len(frame) for frame in frames)
                count = next((n for n, size in enumerate(sizes, 1) if size >= CHUNK_BYTES), len(frames))
                now, frames = frames[:count], frames[count:]
                try:
                    self._write(b"".join(now), count)
                except OSError:
                    self._lost += count
                    self._give_up_chunk()

    def read(self, after: int, limit: int) -> Iterator[tuple[int, Drained]]:
        """(number, record) of up to `limit` records after number `after`, oldest first."""
        with self._lock:
            chunks = list(self._chunks)
        return self._read(chunks, after, limit)

    def _read(self, chunks: Iterable[_Chunk], after: int, limit: int) -> Iterator[tuple[int, Drained]]:
        for chunk in chunks:
            if chunk.first + chunk.count <= after + 1:
                continue
            number, offset = chunk.resume if chunk.first <= chunk.resume[0] <= after else (chunk.first - 1, 0)
            for end, record in _frames(chunk.path, offset):
                number += 1
                if number > after:
                    if limit <= 0:
                        return
                    limit -= 1
                    chunk.resume = number, end
                    yield number, record

    def unsent(self, limit: int) -> list[tuple[int, Drained]]:
        """The next records for the span receiver, numbered without a gap; accept the last number once it has them.

        What the bound or damage took before them is counted as dropped, and passed over.
        """
        with self._lock:
            self._sending = 0
            found: list[tuple[int, Drained]] = []
            for number, record in self._read(self._chunks, self.spans, limit):
                if found and number != found[-1][0] + 1:
                    break
                found.append((number, record))
            gone = (found[0][0] - 1 if found else self.last) - self.spans
            if gone > 0:
                self._lost += gone
                self._accept(self.spans + gone, self.metrics)
            self._sending = found[-1][0] if found else 0
            return found

    def accept(self, *, spans: int = 0, metrics: int = 0) -> None:
        """A receiver has everything up to this number."""
        with self._lock:
            self._accept(max(self.spans, spans), max(self.metrics, metrics))

    def trim(self, max_bytes: int) -> None:
        """Drop the oldest chunks until no more than so many bytes are left (of a journal that nobody writes to)."""
        with self._lock:
            self._trim(max_bytes, keep=0)

    @property
    def dropped(self) -> int:
        """Records lost to the bound, to a full disk or to damage before the span receiver had them.

        What is being sent now is not lost, whatever happens to its chunk.
        """
        with self._lock:
            first = self._chunks[0].first if self._chunks else self.last + 1
            return self._lost + max(0, first - 1 - max(self.spans, self._sending))

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(chunk.size for chunk in list(self._chunks))

    @property
    def done(self) -> bool:
        """Do both receivers have everything?"""
        return min(self.spans, self.metrics) >= self.last

    @property
    def waiting(self) -> int:
        """Records that the span receiver has not accepted."""
        return self.last - self.spans

    def forget(self, segment: str) -> None:
        """The segment is gone, so nothing of it can be drained twice."""
        self.highest.pop(segment, None)
        self.settled.discard(segment)
        for key in [key for key in self.taken if key[0] == segment]:
            del self.taken[key]

    def close(self) -> None:
        with self._lock:
            self._close()

    def close_inherited(self) -> None:
        """As `close`, in a forked process: the lock may have been held by a thread that is not there."""
        self._close()

    def _close(self) -> None:
        descriptor, self._file = self._file, None  # in this order, for a process that is forked in between
        if descriptor is not None:
            os.close(descriptor)

    def _note(self, record: Drained) -> None:
        if record.sequence:
            self.highest[record.segment] = max(record.sequence, self.highest.get(record.segment, 0))
        elif (cell := decode_taken(record)) is not None:
            self.taken[cell.segment, cell.slot] = cell.so_far
        else:
            self.settled.add(record.segment)

    def _write(self, data: bytes, count: int) -> None:
        """Raises OSError when it could not be written whole; then nothing of it is kept."""
        if self._file is None or self._chunks[-1].size >= CHUNK_BYTES:
            self._close()
            path = self.folder / f"journal-{self.last + 1:012d}.bin"
            # A file of this name holds nothing: what a predecessor tore at its first record.
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            self._chunks.append(_Chunk(path, self.last + 1))
        chunk = self._chunks[-1]
        try:
            if os.pwrite(self._file, data, chunk.size) < len(data):
                raise OSError("short write")
        except OSError:
            self._undo(chunk)
            raise
        chunk.size += len(data)
        chunk.count += count
        self.last += count
        self._trim(self._max_bytes, keep=1)

    def _give_up_chunk(self) -> None:
        """The next write begins a new file; an empty one goes, or the new one would have its name."""
        self._close()
        if self._chunks and not self._chunks[-1].count:
            with suppress(OSError):
                self._chunks.pop().path.unlink(missing_ok=True)

    def _trim(self, max_bytes: int, keep: int) -> None:
        while len(self._chunks) > keep and self.size > max_bytes:
            with suppress(OSError):
                self._chunks.popleft().path.unlink(missing_ok=True)

    def _accept(self, spans: int, metrics: int) -> None:
        if (spans, metrics) == (self.spans, self.metrics):
            return
        self.spans, self.metrics = spans, metrics
        # In place and in one write: a process killed here, or a disk that is full, leaves the old marks or the new
        # ones. No marks would mean that everything is counted once more.
        with suppress(OSError):
            descriptor = os.open(self.folder / "marks", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(descriptor, _MARKS.pack(spans, metrics, _marks_crc(spans, metrics)), 0)
            finally:
                os.close(descriptor)
        done = min(spans, metrics)
        while len(self._chunks) > 1 and self._chunks[0].first + self._chunks[0].count - 1 <= done:
            with suppress(OSError):
                self._chunks.popleft().path.unlink(missing_ok=True)

    def _undo(self, chunk: _Chunk) -> None:
        if not chunk.count:
            self._chunks.pop()
            chunk.path.unlink(missing_ok=True)
        elif self._file is not None:
            os.ftruncate(self._file, chunk.size)

    def _adopt(self, path: Path) -> None:
        """Take over what a predecessor wrote, up to the first torn record: what it was writing when it died."""
        chunk = _Chunk(path, self.last + 1)
        name = path.stem.removeprefix("journal-")
        if name.isascii() and name.isdigit() and int(name) > self.last:
            chunk.first = int(name)
            self.last = chunk.first - 1
        for _, record in _frames(path):
            self._note(record)
            chunk.count += 1
        if not chunk.count:
            return
        with suppress(OSError):
            chunk.size = path.stat().st_size
        self.last += chunk.count
        self._chunks.append(chunk)

    def _read_marks(self) -> tuple[int, int]:
        try:
            spans, metrics, crc = _MARKS.unpack(read_regular(self.folder / "marks", _MARKS.size))
        except (OSError, struct.error):
            return 0, 0
        return (spans, metrics) if crc == _marks_crc(spans, metrics) else (0, 0)


def _marks_crc(spans: int, metrics: int) -> int:
    return zlib.crc32(struct.pack("<QQ", spans, metrics))


def _pack(record: Drained, encoded: dict[str, bytes]) -> bytes:
    names: list[bytes] = []
    segment, sequence, payload, task, queue, publisher, user_data = record
    for name in (segment, task, queue, publisher):
        raw = encoded.get(name)
        if raw is None:
            raw = encoded[name] = name.encode("utf-8", "replace")
        names.append(raw)
    source, task_name, queue_name, publisher_name = names
    parts = source, payload, task_name, queue_name, publisher_name, user_data
    head = _FRAME.pack(0, sequence, *map(len, parts))
    rest = b"".join((head[4:], *parts))
    return zlib.crc32(rest, layout.VERSION).to_bytes(4, "little") + rest


def _frames(path: Path, at: int = 0) -> Iterator[tuple[int, Drained]]:
    """(offset behind it, record) of the whole frames of a file from an offset on, up to the first torn one."""
    try:
        data = read_regular(path, 2 * MAX_BYTES)
    except OSError:
        return
    while at + _FRAME.size <= len(data):
        crc, sequence, *lengths = _FRAME.unpack_from(data, at)
        name, payload, task, queue, publisher, user_data, end = accumulate(lengths, initial=at + _FRAME.size)
        if end > len(data) or zlib.crc32(data[at + 4 : end], layout.VERSION) != crc:
            return
        at = end
        yield (
            end,
            Drained(
                data[name:payload].decode("utf-8", "replace"),
                sequence,
                data[payload:task],
                data[task:queue].decode("utf-8", "replace"),
                data[queue:publisher].decode("utf-8", "replace"),
                data[publisher:user_data].decode("utf-8", "replace"),
                data[user_data:end],
            ),
        )
