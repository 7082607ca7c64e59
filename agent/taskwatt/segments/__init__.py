"""The shared-memory file of one process: written on the hot path, read by whoever drains, looks or recovers.

`layout` is the only description of the bytes; `writer` and `reader` both take it from there. `directory` says where the
files live and who owns them.
"""

from __future__ import annotations

from taskwatt.segments.directory import AgentDirectory, RuntimeDirectory, UnusableDirectory
from taskwatt.segments.reader import Damaged, Drained, InFlight, SegmentReader
from taskwatt.segments.writer import SegmentWriter

__all__ = [
    "AgentDirectory",
    "Damaged",
    "Drained",
    "InFlight",
    "RuntimeDirectory",
    "SegmentReader",
    "SegmentWriter",
    "UnusableDirectory",
]
