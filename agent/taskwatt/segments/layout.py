"""Every byte of a segment, written down once.

A segment is one file of `SIZE` bytes, little-endian:

    0       identity   who writes: magic, version, pid, start time, boot, pid namespace, wall/monotonic anchor, role
    256     progress   what the writer has finished (single writer, rewritten after every record)
    384     counters   what the writer could not keep, and why
    512     reader     the drainer's tail, its request for code samples, and how far it read the cells (single writer:
                       the drainer)
    1024    in flight  the attempt now running, complete enough to be settled by others if the process dies
    1400    body       when that attempt's body began
    1536    code       the hottest line per task type, while asked
    4096    strings    append-only table of names: u16 length + UTF-8
    36864   cells      totals per (task, outcome) for attempts that found the ring full
    86016   spill      variable-length data of records (what user code set on the span); newest over oldest
    151552  ring       1,024 records of 256 bytes

A record is sequence (u64), CRC-32 of sequence and payload (u32), payload. Slots are reserved by an atomic counter, so
any thread may write without a lock; a slot whose sequence or checksum does not fit was never finished and is counted,
not trusted. Cells, spilled data, the attempt in flight and code carry checksums as well; progress and counters are
copied in at once, so that a reader meets each number whole.
"""

from __future__ import annotations

import re
import struct
from struct import Struct
from typing import Final, NamedTuple, Self

MAGIC: Final = b"TASKWATT"
VERSION: Final = 3

OWNER: Final = 0
"""Role: drains and exports for itself (and its children)."""
CHILD: Final = 1
"""Role: a pool child; its owner drains it."""

IDENTITY: Final = Struct("<8sII Q Q 16s q d B 31s")
"""magic, version, pid, start ticks, pid namespace, boot id, created (wall ns), created (monotonic s), role, process
class."""

PROGRESS_AT: Final = 256
PROGRESS: Final = Struct("<QQddd")
"""last sequence written, last attempt number finished, process CPU at its end (s), CPU of start-up (s), CPU booked to
no attempt (s: threads that outlived theirs)."""

COUNTERS_AT: Final = 384
COUNTERS: Final = Struct("<IIQQQQB")
"""strings, cells, attempts in cells only, strings refused, spills refused, hook errors, span mode: see writer.count."""

READER_AT: Final = 512
READER: Final = Struct("<QQ")
"""next sequence to read, sample code until (wall ns)."""

CELLS_READ_AT: Final = 536
CELLS_READ: Final = Struct("<120I")
"""Attempts already taken from each of the first cells: few processes fill their ring, with few kinds of attempts."""

IN_FLIGHT_AT: Final = 1024
BODY_AT: Final = 1400
BODY: Final = Struct("<Qd")
"""Attempt number, process CPU when its body began (s): what a killed attempt used before is not the task's."""
CODE_AT: Final = 1536
CODE: Final = Struct("<IIHHd100s200s")
"""CRC-32 of the rest, line, task string, samples, weight, function, file."""
CODE_SLOTS: Final = 8

STRINGS_AT: Final = 4096
STRINGS_SIZE: Final = 32768
STRING_MAX: Final = 200
"""Bytes of one name; longer ones are cut and end in their checksum."""

CELLS_AT: Final = 36864
CELL: Final = Struct("<IHBBQQQdddddd")
"""CRC-32 of the rest, task string, outcome, state, attempts, firsts, repeats, CPU by activity (business ...
subprocesses). The last cell takes in all that find no cell of their own."""
CELL_SLOTS: Final = 512

SPILL_AT: Final = 86016
SPILL_SIZE: Final = 65536
SPILL_MAX: Final = 8192
"""Bytes one record may spill; more is refused and counted. Before the data stands a CRC-32 of offset and data."""

RING_AT: Final = 151552
RING_SLOTS: Final = 1024
RING_MARGIN: Final = 32
"""Slots kept free so that threads that reserve at the same moment never overwrite what was not read."""
SLOT: Final = 256
SIZE: Final = RING_AT + RING_SLOTS * SLOT

HEAD: Final = Struct("<QI")
"""Sequence, CRC-32 of it and the payload."""
ATTEMPT: Final = 1
PUBLISH: Final = 2
TOTALS: Final = 3
"""Only in a journal: what was taken from a cell. Attempt number, body size and max RSS hold attempts, firsts, and the
attempts of that cell so far; retries is the cell's slot."""
STALL: Final = 4
"""A step that held an event loop. Its cause stands in outcome, its loop in queue, the process class in publisher;
business, queue_wait and retry_delay hold the thread's CPU, its run-queue delay and the CPU of the other threads. Code,
stack and row are spilled."""

SAMPLED: Final = 1
REDELIVERED: Final = 2
EXPORTED: Final = 4
ID_SPILLED: Final = 8
RETRY_PUBLISH: Final = 16
EXPECTED: Final = 32

_BEGUN_FORMAT: Final = "BBH 36s16s8s8s16s8s q d QQ IIHHI H"
_ENDED_FORMAT: Final = "dd dddddd Q BB I Q"
RECORD: Final = Struct(f"<{_BEGUN_FORMAT} {_ENDED_FORMAT}")
_BEGUN: Final = Struct(f"<{_BEGUN_FORMAT}")
_ENDED: Final = Struct(f"<{_ENDED_FORMAT}")
BEGUN_SIZE: Final = _BEGUN.size
ENDED_SIZE: Final = _ENDED.size
"""Bytes of the two halves of a record."""


class Record(NamedTuple):
    """The fields of RECORD, in its order."""

    kind: int
    flags: int
    task: int
    """Index of a string, as are `queue` and `publisher`; NO_STRING: the table was full."""
    task_id: bytes
    """As it is written, if that takes TASK_ID_SIZE bytes; else it is spilled."""
    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes
    link_trace_id: bytes
    link_span_id: bytes
    start_ns: int
    """Wall clock."""
    queue_wait: float
    """NaN: unknown."""
    attempt_no: int
    body_size: int
    retries: int
    depth: int
    nesting: int
    queue: int
    args_hash: int
    publisher: int
    # What is known when an attempt begins ends here; the rest when it has ended.
    duration: float
    retry_delay: float
    """NaN: none."""
    business: float
    """CPU, here and below."""
    serialization: float
    gc: float
    framework: float
    agent: float
    subprocesses: float
    max_rss: int
    outcome: int
    state: int
    spill_length: int
    """Checksum included; 0: nothing was spilled."""
    spill_at: int
    """Offset since the segment began; its place is this modulo SPILL_SIZE."""

    @classmethod
    def unpack(cls, payload: bytes) -> Self:
        return cls._make(RECORD.unpack(payload))


def pack_begun(*fields: float | bytes) -> bytes:
    """The bytes of a Record's fields up to `publisher`: with those of `pack_ended` behind them, a record.

    A number that does not fit becomes the nearest that does: what a message claims must never fail the user's task.
    """
    try:
        return _BEGUN.pack(*fields)
    except (struct.error, OverflowError):
        return _BEGUN.pack(*_all_fitted(_BEGUN_FORMAT, fields))


def pack_ended(*fields: float | bytes) -> bytes:
    """The bytes of a Record's fields from `duration` on."""
    try:
        return _ENDED.pack(*fields)
    except (struct.error, OverflowError):
        return _ENDED.pack(*_all_fitted(_ENDED_FORMAT, fields))


def pack_record(*fields: float | bytes) -> bytes:
    """The bytes of a Record's fields, all at once."""
    return pack_begun(*fields[:_BEGUN_FIELDS]) + pack_ended(*fields[_BEGUN_FIELDS:])


def with_flags(begun: bytes, flags: int) -> bytes:
    """As `pack_begun` would have written it with these flags."""
    return begun[:1] + bytes((flags,)) + begun[2:]


def picking(*names: str) -> Struct:
    """Reads these fields of a record alone, in its order: reading all of them takes three times as long."""
    codes = zip(Record._fields, _CODES.findall(f"{_BEGUN_FORMAT} {_ENDED_FORMAT}"), strict=True)
    return Struct("<" + "".join(code if name in names else f"{struct.calcsize(f'<{code}')}x" for name, code in codes))


_CODES: Final = re.compile(r"\d*[a-zA-Z]")
_BEGUN_FIELDS: Final = Record._fields.index("duration")


def _all_fitted(codes: str, fields: tuple[float | bytes, ...]) -> list[float | bytes]:
    return [_fitted(code, value) for code, value in zip(_CODES.findall(codes), fields, strict=True)]


_BOUNDS: Final = {
    "B": (0, 0xFF),
    "H": (0, 0xFFFF),
    "I": (0, 0xFFFFFFFF),
    "Q": (0, 0xFFFFFFFFFFFFFFFF),
    "q": (-0x8000000000000000, 0x7FFFFFFFFFFFFFFF),
}


def _fitted(code: str, value: float | bytes) -> float | bytes:
    if code.endswith("s"):
        return value if isinstance(value, bytes) else b""
    if code == "d":
        try:
            return float(value)
        except (OverflowError, ValueError):
            return float("nan")
    low, high = _BOUNDS[code]
    return min(max(value, low), high) if isinstance(value, int) else 0


IN_FLIGHT: Final = Struct("<IQdd")
"""CRC-32 of the rest and the record, attempt number, process CPU at start (s), reaped children's CPU at start (s)."""


HOT_LAYOUT: Final = " | ".join(
    (*(one.format for one in (HEAD, RECORD, IN_FLIGHT, BODY, PROGRESS)), " ".join(Record._fields))
)
"""All of it that the accelerator writes: it was built for exactly one."""


def boot_bytes(boot_id: str) -> bytes:
    """A boot id as a segment stores it."""
    return bytes.fromhex(boot_id.replace("-", ""))[:16].ljust(16, b"\0")


TASK_ID_SIZE: Final = 36
"""Of a UUID, as Celery writes it."""
NO_ID: Final = bytes(16)
NO_SPAN: Final = bytes(8)
NO_STRING: Final = 0xFFFF

assert HEAD.size + RECORD.size <= SLOT
assert IN_FLIGHT.size + RECORD.size <= BODY_AT - IN_FLIGHT_AT
assert BODY_AT + BODY.size <= CODE_AT
assert CODE_AT + CODE.size * CODE_SLOTS <= STRINGS_AT
assert CELLS_AT + CELL.size * CELL_SLOTS <= SPILL_AT
assert IDENTITY.size <= PROGRESS_AT
assert PROGRESS_AT + PROGRESS.size <= COUNTERS_AT
assert COUNTERS_AT + COUNTERS.size <= READER_AT
assert STRINGS_AT + STRINGS_SIZE <= CELLS_AT
assert SPILL_AT + SPILL_SIZE <= RING_AT
assert READER_AT + READER.size <= CELLS_READ_AT
assert CELLS_READ_AT + CELLS_READ.size <= IN_FLIGHT_AT
