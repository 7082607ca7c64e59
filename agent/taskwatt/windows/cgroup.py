"""The CPU quota that a cgroup puts on this process: versions 1 and 2, any level, from the host or in a container.

A quota on a parent binds its children too, so each level from the process's own group up to the mount is asked and
the tightest counts. Inside a container the path in /proc/self/cgroup may be the host's, with only its tail (or nothing
of it) below the mount: leading parts are then left out until the rest exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOUNT: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Throttling:
    """Enforcement periods with work in them, and those in which the quota ran out; totals since the group exists."""

    periods: int
    throttled: int


class CpuQuota:
    """Found once (a process hardly ever moves to another group); its figures are read anew each time."""

    def __init__(self, proc: Path, mount: Path = MOUNT) -> None:
        self._levels = tuple(_levels(proc, mount))

    def cpus(self) -> float | None:
        """CPUs per second that the tightest level grants; None when no level limits."""
        granted = [cpus for cpus in map(_granted, self._levels) if cpus is not None]
        return min(granted, default=None)

    def throttling(self) -> dict[Path, Throttling]:
        """By limited level; empty when no level limits."""
        return {level: _throttling(level) for level in self._levels if _granted(level) is not None}


def _levels(proc: Path, mount: Path) -> Iterator[Path]:
    """The directories of this process's group and its parents, innermost first."""
    for controllers, path in _memberships(proc):
        root = _root(controllers, mount)
        if root is None:
            continue
        group = _below(root, path)
        yield group
        while group != root:
            group = group.parent
            yield group


def _memberships(proc: Path) -> Iterator[tuple[frozenset[str], str]]:
    """(controllers, path) for the version 1 hierarchy that holds `cpu` and for version 2 (no controllers)."""
    try:
        lines = (proc / "self/cgroup").read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        names, separator, path = rest.partition(":")
        controllers = frozenset(name for name in names.split(",") if name)
        if separator and (not controllers or "cpu" in controllers):
            yield controllers, path


def _root(controllers: frozenset[str], mount: Path) -> Path | None:
    if not controllers:
        roots = [mount, mount / "unified"]
        return next((root for root in roots if (root / "cgroup.controllers").exists()), None)
    names = ["cpu", "cpu,cpuacct", "cpuacct,cpu", ",".join(sorted(controllers))]
    return next((mount / name for name in names if (mount / name).is_dir()), None)


def _below(root: Path, path: str) -> Path:
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    while parts and not root.joinpath(*parts).is_dir():
        parts.pop(0)
    return root.joinpath(*parts)


def _granted(level: Path) -> float | None:
    both = _text(level / "cpu.max").split()
    if len(both) != 2:
        both = [_text(level / "cpu.cfs_quota_us").strip(), _text(level / "cpu.cfs_period_us").strip()]
    try:
        quota, period = int(both[0]), int(both[1])
    except ValueError:  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _throttling(level: Path) -> Throttling:
    figures = dict(line.split(maxsplit=1) for line in _text(level / "cpu.stat").splitlines() if " " in line)
    try:
        return Throttling(int(figures.get("nr_periods", 0)), int(figures.get("nr_throttled", 0)))
    except ValueError:
        return Throttling(0, 0)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
