"""Where segments live and who owns them.

    <runtime directory>/            0700, ours; TASKWATT_DIR, else shared memory, else the temporary directory
        agents/<identity>/          one per process that drains: a worker's main process, a web worker, a script
            owner.seg               its own segment; it holds this file's lock for as long as it lives
            <pid>-<ticks>.seg       its pool children
            journal-*.bin           records drained but not yet accepted by a receiver
            inherited/<identity>/   the folder of a dead agent that this one took over
            latest.json             its newest verdicts
        history/                    bounded OTLP-JSON lines

An identity is boot id, pid namespace, pid and start time: a pid alone is reused.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from taskwatt import clocks
from taskwatt.segments import layout

SHARED_MEMORY = Path("/dev/shm")


class UnusableDirectory(Exception):
    """A runtime directory that cannot be used; the message is a sentence for the log."""


@dataclass(frozen=True, slots=True)
class AgentDirectory:
    """The folder of one draining process."""

    path: Path

    @property
    def owner_segment(self) -> Path:
        return self.path / "owner.seg"

    @property
    def latest(self) -> Path:
        return self.path / "latest.json"

    def child_segment(self, pid: int) -> Path:
        return self.path / f"{pid}-{clocks.start_time(pid) or 0}.seg"

    def changed_ns(self) -> int:
        """When a file came or went, by the file system's clock (wall); 0 when the folder is gone."""
        try:
            return os.stat(self.path).st_mtime_ns
        except OSError:
            return 0

    def segments(self) -> list[Path]:
        """Every segment in the folder, the owner's first; empty when the folder is gone."""
        try:
            names = sorted(entry.name for entry in os.scandir(self.path) if entry.name.endswith(".seg"))
        except OSError:
            return []
        return [self.path / name for name in sorted(names, key=lambda name: name != "owner.seg")]

    @property
    def inherited(self) -> Path:
        """Folders of dead agents that this one took over, each under its own name."""
        return self.path / "inherited"

    def first_to_say(self, what: str) -> bool:
        """Is this process the first of the agent's to say something? Recycled children would repeat it for ever."""
        try:
            os.close(os.open(self.path / f"said-{what}", os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return False
        except OSError:
            return True
        return True

    def remove(self) -> None:
        """The owner's segment first: what a process killed in here leaves behind is rubbish, not recovered twice."""
        with suppress(OSError):
            self.owner_segment.unlink()
        shutil.rmtree(self.path, ignore_errors=True)


class RuntimeDirectory:
    """A private directory that exists, is ours, and has room."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, configured: Path | None) -> tuple[RuntimeDirectory, list[str]]:
        """The first usable candidate, and a sentence for each one that was passed over.

        Raises UnusableDirectory when none is usable.
        """
        refused: list[str] = []
        for candidate in candidates(configured):
            try:
                _claim(candidate)
            except UnusableDirectory as error:
                if candidate != _shared_memory() or configured is not None:
                    refused.append(str(error))
            else:
                if candidate == _shared_memory():
                    with suppress(UnusableDirectory):  # then the history stays beside the segments
                        _make_private(_temporary())
                return cls(candidate), refused
        raise UnusableDirectory("; ".join(refused) or "no runtime directory is usable")

    @property
    def history(self) -> Path:
        """Where the bounded history goes: beside the segments if configured, else on disk rather than in memory.

        In memory all the same when the place on disk belongs to somebody else or is open to others.
        """
        on_disk = self.path == _shared_memory() and is_private(_temporary())
        return (_temporary() if on_disk else self.path) / "history"

    def agent(self, pid: int) -> AgentDirectory:
        """The folder of process `pid` (created if missing); OSError when there is no room."""
        path = self.path / "agents" / identity(pid)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return AgentDirectory(path)

    def agents(self) -> Iterator[AgentDirectory]:
        try:
            entries = sorted(os.scandir(self.path / "agents"), key=lambda entry: entry.name)
        except OSError:
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield AgentDirectory(Path(entry.path))


def candidates(configured: Path | None) -> list[Path]:
    """Where an agent looks for room, best first."""
    shared = _shared_memory()
    found = [path for path in (configured, shared, _temporary()) if path is not None]
    return list(dict.fromkeys(found))


def agent_of(pid: int, configured: Path | None) -> AgentDirectory | None:
    """The folder of a process that runs an agent, wherever that one found room; None when it runs none."""
    for candidate in candidates(configured):
        directory = AgentDirectory(candidate / "agents" / identity(pid))
        try:
            _check_private(candidate)
        except UnusableDirectory:
            continue
        if directory.owner_segment.exists():
            return directory
    return None


def identity(pid: int) -> str:
    return f"{clocks.boot_id()[:8]}-{clocks.pid_namespace()}-{pid}-{clocks.start_time(pid) or 0}"


def _shared_memory() -> Path | None:
    return SHARED_MEMORY / f"taskwatt-{os.getuid()}" if SHARED_MEMORY.is_dir() else None


def _temporary() -> Path:
    return Path(tempfile.gettempdir()) / f"taskwatt-{os.getuid()}"


def is_private(path: Path) -> bool:
    """Is it a directory of ours that nobody else may enter? Changes nothing."""
    try:
        _check_private(path)
    except UnusableDirectory:
        return False
    return True


def _check_private(path: Path) -> None:
    """Raise UnusableDirectory, saying why, unless `path` is a directory of ours that nobody else may enter."""
    try:
        found = os.lstat(path)
    except OSError as error:
        raise UnusableDirectory(f"{path} cannot be used: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise UnusableDirectory(f"{path} is not a directory")
    if found.st_uid != os.getuid():
        raise UnusableDirectory(f"{path} belongs to user {found.st_uid}, not to us ({os.getuid()})")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise UnusableDirectory(f"{path} is open to others (mode {stat.S_IMODE(found.st_mode):o}, want 700)")


def _make_private(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UnusableDirectory(f"{path} cannot be made: {error.strerror}") from None
    _check_private(path)


def _claim(path: Path) -> None:
    """Make `path` a private directory of ours with room for one segment, or raise UnusableDirectory saying why not."""
    _make_private(path)
    probe = path / f".room-{os.getpid()}"
    try:
        descriptor = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise UnusableDirectory(f"{path} cannot be written: {error.strerror}") from None
    try:
        reserve(descriptor, layout.SIZE)
    except OSError as error:
        raise UnusableDirectory(f"{path} has no room for a segment: {error.strerror}") from None
    finally:
        os.close(descriptor)
        probe.unlink(missing_ok=True)


def read_regular(path: Path, most: int) -> bytes:
    """The last `most` bytes of a file; OSError for anything but a regular one (a FIFO would make us wait for ever)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path} is not a regular file")
        return os.pread(descriptor, min(most, found.st_size), max(0, found.st_size - most))
    finally:
        os.close(descriptor)


def reserve(descriptor: int, size: int) -> None:
    """Give the file real blocks.

    A sparse file on a full tmpfs would be SIGBUS in the user's process; this is ENOSPC here.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.pwrite(descriptor, bytes(size), 0)
