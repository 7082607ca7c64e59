"""A directory that cannot be used costs one line; the worker goes on, measured elsewhere or not at all."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from taskwatt.segments import RuntimeDirectory, UnusableDirectory, layout
from tests.harm.conftest import StartWorker
from tests.support.processes import wait_for
from tests.support.worker import Worker

ROOT = os.getuid() == 0
SHARED = Path("/dev/shm") / f"taskwatt-{os.getuid()}"


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for two segments and a bit."""
    folder = tmp_path / "tiny"
    folder.mkdir(mode=0o700)
    size = f"size={layout.SIZE * 2 // 1024 + 64}k,mode=700"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> None:
    with suppress(OSError), (folder / "filling").open("wb", buffering=0) as filling:
        while filling.write(bytes(4096)) == 4096:
            pass


def works(worker: Worker) -> None:
    for number in range(3):
        assert worker.app.AsyncResult(worker.send("add", number, 1)).get(timeout=20) == number + 1


def unusable(kind: str, folder: Path) -> tuple[Path, str]:
    """A directory of that kind, and what is said about it."""
    path = folder / "runtime"
    if kind == "below a file":
        path.touch()
        return path / "below", "cannot be made: Not a directory"
    if kind == "a file":
        path.touch()
        return path, "cannot be made: File exists"
    if kind == "not ours":
        if not ROOT:
            return Path("/"), f"belongs to user 0, not to us ({os.getuid()})"
        path.mkdir(mode=0o700)
        os.chown(path, 12_345, 12_345)
        return path, "belongs to user 12345, not to us (0)"
    if kind == "open to others":
        path.mkdir()
        path.chmod(0o777)
        return path, "is open to others (mode 777, want 700)"
    if ROOT:  # nothing is unwritable to root, but for a file system that says so
        return Path("/proc/taskwatt"), "cannot be made: No such file or directory"
    path.mkdir(mode=0o500)
    return path, "cannot be written: Permission denied"


@pytest.mark.parametrize("kind", ["below a file", "a file", "not ours", "open to others", "unwritable"])
def test_a_directory_that_cannot_be_used_is_passed_over_and_said_why(tmp_path: Path, kind: str) -> None:
    path, reason = unusable(kind, tmp_path)
    found, refused = RuntimeDirectory.open(path)
    assert (found.path != path, refused) == (True, [f"{path} {reason}"])


def test_a_link_to_a_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    _, refused = RuntimeDirectory.open(tmp_path / "link")
    assert refused == [f"{tmp_path / 'link'} is not a directory"]


@pytest.mark.parametrize("kind", ["not ours", "unwritable"])
def test_a_worker_with_such_a_directory_uses_another_one(worker: StartWorker, tmp_path: Path, kind: str) -> None:
    path, reason = unusable(kind, tmp_path)
    watched = worker(TASKWATT_DIR=str(path))
    works(watched)
    agents = SHARED / "agents" if SHARED.parent.is_dir() else None
    mine = f"-{watched.pid}-"
    assert agents is None or [entry for entry in agents.iterdir() if mine in entry.name]
    assert watched.end() == 0
    (line,) = watched.warnings
    assert f"taskwatt: {path} {reason}; using " in line
    assert agents is None or [entry for entry in agents.iterdir() if mine in entry.name] == []


def test_a_directory_that_is_full_is_passed_over(tiny: Path) -> None:
    (tiny / "filling").write_bytes(bytes(layout.SIZE * 2))
    _, refused = RuntimeDirectory.open(tiny)
    assert refused == [f"{tiny} has no room for a segment: No space left on device"]
    assert os.listdir(tiny) == ["filling"]


def test_no_directory_at_all_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reason = unusable("below a file", tmp_path)
    monkeypatch.setattr("taskwatt.segments.directory.candidates", lambda _: [path])
    with pytest.raises(UnusableDirectory, match=reason):
        RuntimeDirectory.open(path)


def test_a_directory_that_fills_up_costs_what_does_not_fit_and_one_line(worker: StartWorker, tiny: Path) -> None:
    watched = worker(TASKWATT_DIR=str(tiny))
    works(watched)
    wait_for(lambda: list(tiny.glob("agents/*/latest.json")), 10, "the agent's first document")
    fill(tiny)
    works(watched)
    watched.app.AsyncResult(watched.send("fail")).get(timeout=20, propagate=False)
    wait_for(lambda: watched.warnings, 20, "a line about the full directory")
    for _ in range(3):
        watched.send("add", 1, 1)
    time.sleep(2.5)
    works(watched)
    assert watched.end() == 0
    (line,) = watched.warnings
    assert f"taskwatt cannot write to {tiny}" in line
    assert "No space left on device" in line


def test_recycled_children_without_room_say_so_once(worker: StartWorker, tiny: Path) -> None:
    """The main process has its segment, its children have none, and every task gets a new child."""
    (tiny / "filling").write_bytes(bytes(layout.SIZE // 2))
    watched = worker(TASKWATT_DIR=str(tiny), options=("--concurrency", "2", "--max-tasks-per-child", "1"))
    works(watched)
    assert watched.end() == 0
    (line,) = watched.warnings
    assert "taskwatt is off in process" in line
    assert "No space left on device" in line


def test_a_limit_on_the_size_of_files_is_a_full_directory_too(tmp_path: Path) -> None:
    code = f"""
    import logging, resource
    resource.setrlimit(resource.RLIMIT_FSIZE, ({layout.SIZE // 2}, {resource.RLIM_INFINITY}))
    from pathlib import Path
    from taskwatt.segments import RuntimeDirectory, UnusableDirectory
    try:
        RuntimeDirectory.open(Path({str(tmp_path)!r}))
    except UnusableDirectory as error:
        print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert f"{tmp_path} has no room for a segment: File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []
