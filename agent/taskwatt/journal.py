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
from pathlib import Path
from typing import Final

from taskwatt.segments.directory import read_regular
from taskwatt.segments.reader import Drained

CHUNK_BYTES: Final = 1 << 18
MAX_BYTES: Final = 16 << 20
"""About 45,000 attempts: four minutes of a collector that is down at 200 attempts a second."""

_FRAME: Final = struct.Struct("<IQHHHHHH")
"""CRC-32 of the rest, sequence, lengths of segment name, payload, task, queue, publisher, user data."""
_MARKS: Final = struct.Struct("<QQ")


@dataclass(slots=True)
class _Chunk:
    path: Path
    first: int
    count: int = 0
    size: int = 0


class Journal:
    """Append-only, numbered from 1. One writing process; its successor opens what a dead one left."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._chunks: deque[_Chunk] = deque()
        self._file: int | None = None
        self._lock = threading.Lock()
        self.last = 0
        """Number of the newest record."""
        self.dropped = 0
        """Records lost to the bound, to a full disk or to damage before the span receiver had them."""
        self.highest: dict[str, int] = {}
        """Segment name -> highest sequence kept."""
        self.settled: set[str] = set()
        """Segments whose killed attempt is kept (those records have no sequence)."""
        for path in sorted(folder.glob("journal-*.bin")):
            self._adopt(path)
        self.spans, self.metrics = self._read_marks()

    def append(self, records: Iterable[Drained]) -> None:
        """Keep records; on a full disk they are counted as dropped. Never raises."""
        frames: list[bytes] = []
        for record in records:
            frames.append(_pack(record))
            self._note(record)
        if not frames:
            return
        with self._lock:
            try:
                self._write(b"".join(frames), len(frames))
            except OSError:
                self.dropped += len(frames)
                self._close()

    def read(self, after: int, limit: int) -> Iterator[tuple[int, Drained]]:
        """(number, record) of up to `limit` records after number `after`, oldest first."""
        for chunk in list(self._chunks):
            if chunk.first + chunk.count <= after + 1:
                continue
            number = chunk.first
            for record in _frames(chunk.path):
                if number > after:
                    if limit <= 0:
                        return
                    limit -= 1
                    yield number, record
                number += 1

    def accept(self, *, spans: int | None = None, metrics: int | None = None) -> None:
        """A receiver has everything up to this number."""
        self.spans = max(self.spans, spans or 0)
        self.metrics = max(self.metrics, metrics or 0)
        with suppress(OSError):  # worst case: a successor sends some spans again
            (self._folder / "marks").write_bytes(_MARKS.pack(self.spans, self.metrics))
        done = min(self.spans, self.metrics)
        with self._lock:
            while len(self._chunks) > 1 and self._chunks[0].first + self._chunks[0].count - 1 <= done:
                self._chunks.popleft().path.unlink(missing_ok=True)

    @property
    def waiting(self) -> int:
        """Records that the span receiver has not accepted."""
        return self.last - self.spans

    def forget(self, segment: str) -> None:
        """The segment is gone, so nothing of it can be drained twice."""
        self.highest.pop(segment, None)
        self.settled.discard(segment)

    def close(self) -> None:
        with self._lock:
            self._close()

    def close_inherited(self) -> None:
        """As `close`, in a forked process: the lock may have been held by a thread that is not there."""
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _note(self, record: Drained) -> None:
        if record.sequence:
            self.highest[record.segment] = max(record.sequence, self.highest.get(record.segment, 0))
        else:
            self.settled.add(record.segment)

    def _write(self, data: bytes, count: int) -> None:
        if self._file is None or self._chunks[-1].size >= CHUNK_BYTES:
            self._close()
            path = self._folder / f"journal-{self.last + 1:012d}.bin"
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._chunks.append(_Chunk(path, self.last + 1))
        written = os.write(self._file, data)
        if written < len(data):
            os.ftruncate(self._file, self._chunks[-1].size)
            raise OSError("short write")
        self._chunks[-1].size += written
        self._chunks[-1].count += count
        self.last += count
        while len(self._chunks) > 1 and sum(chunk.size for chunk in self._chunks) > self._max_bytes:
            oldest = self._chunks.popleft()
            self.dropped += max(0, oldest.first + oldest.count - 1 - max(self.spans, oldest.first - 1))
            oldest.path.unlink(missing_ok=True)

    def _adopt(self, path: Path) -> None:
        chunk = _Chunk(path, self.last + 1)
        name = path.stem.removeprefix("journal-")
        if name.isdigit() and int(name) > self.last:
            chunk.first = int(name)
            self.last = chunk.first - 1
        for record in _frames(path):
            self._note(record)
            chunk.count += 1
        self.last += chunk.count
        self._chunks.append(chunk)

    def _read_marks(self) -> tuple[int, int]:
        try:
            spans, metrics = _MARKS.unpack(read_regular(self._folder / "marks", 64))
        except (OSError, struct.error):
            return 0, 0
        return spans, metrics


def _pack(record: Drained) -> bytes:
    parts = (
        record.segment.encode("utf-8", "replace"),
        record.payload,
        record.task.encode(),
        record.queue.encode(),
        record.publisher.encode(),
        record.user_data,
    )
    rest = _FRAME.pack(0, record.sequence, *(len(part) for part in parts))[4:] + b"".join(parts)
    return zlib.crc32(rest).to_bytes(4, "little") + rest


def _frames(path: Path) -> Iterator[Drained]:
    """The whole frames of a file, up to the first torn one."""
    try:
        data = read_regular(path, 2 * MAX_BYTES)
    except OSError:
        return
    at = 0
    while at + _FRAME.size <= len(data):
        crc, sequence, *lengths = _FRAME.unpack_from(data, at)
        end = at + _FRAME.size + sum(lengths)
        if end > len(data) or zlib.crc32(data[at + 4 : end]) != crc:
            return
        at += _FRAME.size
        parts: list[bytes] = []
        for length in lengths:
            parts.append(data[at : at + length])
            at += length
        segment, payload, task, queue, publisher, user_data = parts
        yield Drained(
            segment.decode("utf-8", "replace"),
            sequence,
            payload,
            task.decode("utf-8", "replace"),
            queue.decode("utf-8", "replace"),
            publisher.decode("utf-8", "replace"),
            user_data,
        )
