"""Every byte of a segment, written down once.

A segment is one file of `SIZE` bytes, little-endian:

    0       identity   who writes: magic, version, pid, start time, boot, pid namespace, wall/monotonic anchor, role
    256     progress   what the writer has finished (single writer, rewritten after every record)
    384     counters   what the writer could not keep, and why
    512     reader     the drainer's tail and its request for code samples (single writer: the drainer)
    1024    in flight  the attempt now running, complete enough to be settled by others if the process dies
    1536    code       the hottest line per task type, while asked
    4096    strings    append-only table of names: u16 length + UTF-8
    36864   cells      totals per (task, outcome) for attempts that found the ring full
    86016   spill      variable-length data of records (what user code set on the span)
    151552  ring       1,024 records of 256 bytes

A record is sequence (u64), CRC-32 of sequence and payload (u32), payload. Slots are reserved by an atomic counter, so
any thread may write without a lock; a slot whose sequence or checksum does not fit was never finished and is counted,
not trusted.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

MAGIC: Final = b"TASKWATT"
VERSION: Final = 1

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
COUNTERS: Final = Struct("<IIQQQQBI")
"""strings, cells, attempts in cells only, strings refused, spills refused, hook errors, span mode, attempt in
flight."""

READER_AT: Final = 512
READER: Final = Struct("<QQQ")
"""next sequence to read, spill bytes consumed, sample code until (wall ns)."""

IN_FLIGHT_AT: Final = 1024
CODE_AT: Final = 1536
CODE: Final = Struct("<IIHHd100s200s")
"""CRC-32 of the rest, line, task string, samples, weight, function, file."""
CODE_SLOTS: Final = 8

STRINGS_AT: Final = 4096
STRINGS_SIZE: Final = 32768
STRING_MAX: Final = 200
"""Bytes of one name; longer ones are cut and end in their checksum."""

CELLS_AT: Final = 36864
CELL: Final = Struct("<HBBIQQQdddddd")
"""task string, outcome, state, 0, attempts, firsts, repeats, CPU by activity (business ... subprocesses)."""
CELL_SLOTS: Final = 512

SPILL_AT: Final = 86016
SPILL_SIZE: Final = 65536
SPILL_MAX: Final = 8192
"""Bytes one record may spill; more is cut by the writer."""

RING_AT: Final = 151552
RING_SLOTS: Final = 1024
RING_MARGIN: Final = 32
"""Slots kept free so that threads that reserve at the same moment never overwrite what was not read."""
SLOT: Final = 256
SIZE: Final = RING_AT + RING_SLOTS * SLOT

HEAD: Final = Struct("<QI")
ATTEMPT: Final = 1
PUBLISH: Final = 2

SAMPLED: Final = 1
REDELIVERED: Final = 2
EXPORTED: Final = 4
ID_SPILLED: Final = 8
RETRY_PUBLISH: Final = 16
EXPECTED: Final = 32

RECORD: Final = Struct("<BBH 16s16s8s8s16s8s q ddd dddddd QQQ IIHHI BBHI Q")
"""kind, flags, task string | task id, trace, span, parent span, linked trace, linked span | start (wall ns) | duration,
queue wait (NaN: unknown), retry delay (NaN: none) | CPU: business, serialization, gc, framework, agent, subprocesses |
attempt number, body size, max RSS | retries, depth, nesting, queue string, arguments hash | outcome, state, publisher
string, spill length | spill offset."""

IN_FLIGHT: Final = Struct("<IQdd")
"""CRC-32 of the rest and the record, attempt number, process CPU at start (s), reaped children's CPU at start (s)."""

NO_ID: Final = bytes(16)
NO_SPAN: Final = bytes(8)
NO_STRING: Final = 0xFFFF

assert HEAD.size + RECORD.size <= SLOT
assert IN_FLIGHT.size + RECORD.size <= CODE_AT - IN_FLIGHT_AT
assert CODE_AT + CODE.size * CODE_SLOTS <= STRINGS_AT
assert CELLS_AT + CELL.size * CELL_SLOTS <= SPILL_AT
assert COUNTERS_AT + COUNTERS.size <= READER_AT
