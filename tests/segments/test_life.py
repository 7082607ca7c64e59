"""Who lives, who may recover whom, and what runs right now: across real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskwatt.observations import CodeSite
from taskwatt.segments import AgentDirectory, RuntimeDirectory, SegmentReader, SegmentWriter, UnusableDirectory, layout
from tests.support.segments import begin, child, die, finish, killed_process, overwrite

WRITER = """
import os, sys
from pathlib import Path
from tests.support.segments import child, finish
segment = child(Path(sys.argv[1]))
finish(segment, 1)
if "close" in sys.argv:
    os.close(segment.descriptor)  # as daemonising does
if "fork" in sys.argv and os.fork() == 0:
    segment.close()  # the child's copy: the lock is its parent's
    os._exit(0)
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "1-1.seg"


@pytest.fixture
def writer(path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), *getattr(request, "param", ())],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


@pytest.mark.parametrize("writer", [(), ("fork",), ("close",)], indirect=True)
def test_a_process_is_alive_until_it_is_killed_whatever_became_of_its_lock(
    path: Path, writer: subprocess.Popen[str]
) -> None:
    reader = SegmentReader(path)
    seen = [reader.alive()]
    os.kill(writer.pid, signal.SIGKILL)
    os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)
    zombie_cpu = reader.cpu()
    seen.append(reader.alive())
    writer.wait()
    seen.append(reader.alive())
    assert seen == [True, False, False]
    assert (zombie_cpu or 0.0) > 0.0
    assert reader.cpu() is None
    reader.close()


def test_a_pid_that_another_process_has_now_keeps_nobody_alive(path: Path) -> None:
    die(child(path))
    reader = SegmentReader(path)
    assert (reader.pid, reader.alive(), reader.cpu()) == (os.getpid(), False, None)
    reader.close()


def test_the_same_pid_of_another_boot_is_another_process(path: Path) -> None:
    segment = child(path)
    identity = list(layout.IDENTITY.unpack(path.read_bytes()[: layout.IDENTITY.size]))
    segment.close()
    identity[5] = b"another boot id!"
    overwrite(path, 0, layout.IDENTITY.pack(*identity))
    reader = SegmentReader(path)
    assert not reader.alive()
    reader.close()


def test_an_identity_says_who_writes(path: Path) -> None:
    segment = child(path, layout.OWNER)
    reader = SegmentReader(path, segment.descriptor)
    assert (reader.pid, reader.role, reader.process_class) == (os.getpid(), layout.OWNER, "worker")
    assert reader.name == f"{path.parent.name}/1-1.seg/{reader.created_ns}"
    reader.close()
    assert reader.alive()  # closing a reader of one's own segment lets go of no lock
    segment.close()


def test_a_segment_that_is_there_already_is_not_overwritten(path: Path) -> None:
    segment = child(path)
    with pytest.raises(FileExistsError):
        child(path)
    segment.close()


def test_a_full_disk_is_an_oserror_and_leaves_no_file(path: Path) -> None:
    script = f"""
import resource
from pathlib import Path
from tests.support.segments import child
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    child(Path({str(path)!r}))
except OSError as error:
    print(type(error).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert (done.stdout, path.exists()) == ("OSError\n", False)


@pytest.fixture
def segment(path: Path) -> Iterator[SegmentWriter]:
    segment = child(path)
    yield segment
    segment.close()


def test_an_attempt_is_in_flight_from_its_begin_to_its_record(segment: SegmentWriter) -> None:
    reader = SegmentReader(segment.path, segment.descriptor)
    seen = [reader.in_flight()]
    begin(segment, 1, task="shop.pay", cpu=1.25)
    seen.append(reader.in_flight())
    finish(segment, 1)
    seen.append(reader.in_flight())
    begin(segment, 2, task="shop.mail", cpu=2.5)
    seen.append(reader.in_flight())
    assert [(one.attempt_no, one.record.task, one.cpu_at_start) if one else None for one in seen] == [
        None,
        (1, "shop.pay", 1.25),
        None,
        (2, "shop.mail", 2.5),
    ]


def test_an_attempt_that_went_to_a_cell_is_in_flight_no_more(segment: SegmentWriter) -> None:
    reader = SegmentReader(segment.path, segment.descriptor)
    while finish(segment, 1):
        pass
    begin(segment, 2)
    before = reader.in_flight()
    finish(segment, 2)
    assert (before is not None, reader.in_flight()) == (True, None)


def test_a_note_of_a_begun_attempt_that_is_torn_is_nobody_s_and_counted_once_its_writer_is_dead(
    segment: SegmentWriter,
) -> None:
    reader = SegmentReader(segment.path, segment.descriptor)
    begin(segment, 1)
    overwrite(segment.path, layout.IN_FLIGHT_AT + 40, b"\xff\xff")
    assert (reader.in_flight(), reader.damaged) == (None, 0)
    assert (reader.in_flight(ended=True), reader.damaged) == (None, 1)


def test_a_process_killed_between_its_record_and_its_progress_had_finished(segment: SegmentWriter) -> None:
    reader = SegmentReader(segment.path, segment.descriptor)
    progress = segment.path.read_bytes()[layout.PROGRESS_AT : layout.PROGRESS_AT + layout.PROGRESS.size]
    begin(segment, 1)
    finish(segment, 1)
    overwrite(segment.path, layout.PROGRESS_AT, progress)
    assert len(reader.drain(ended=True)) == 1
    assert reader.in_flight(ended=True) is None


def test_code_that_was_asked_for_is_answered(segment: SegmentWriter) -> None:
    reader = SegmentReader(segment.path, segment.descriptor)
    before = segment.asked_for_code_until()
    reader.ask_for_code(1_764_000_000_000_000_000)
    task = segment.string("shop.pay")
    segment.code(task, task, "connect", "shop/gateway.py", 41, 0.875, 42)
    assert (before, segment.asked_for_code_until()) == (0, 1_764_000_000_000_000_000)
    assert reader.code() == [CodeSite("shop.pay", "connect", "shop/gateway.py", 41, 0.875, 42)]


def test_code_of_any_length_and_size_is_cut_to_what_fits(segment: SegmentWriter) -> None:
    reader = SegmentReader(segment.path, segment.descriptor)
    task = segment.string("t")
    segment.code(9, task, "f" * 300, "x/" * 300 + "end.py", 2**40, 1.0, 10**9)
    segment.code(2, task, "é\udcff" * 80, "", -1, 1.0, -1)
    (site,) = reader.code()
    assert (len(site.function), site.file[-6:], len(site.file)) == (100, "end.py", 200)
    assert (site.line, site.samples) == (2**32 - 1, 2**16 - 1)


def test_a_torn_line_of_code_is_left_out(segment: SegmentWriter) -> None:
    reader = SegmentReader(segment.path, segment.descriptor)
    segment.code(1, segment.string("t"), "connect", "gateway.py", 41, 1.0, 42)
    overwrite(segment.path, layout.CODE_AT + layout.CODE.size + 30, b"\xff")
    assert reader.code() == []


def test_the_span_mode_is_noted(segment: SegmentWriter) -> None:
    reader = SegmentReader(segment.path, segment.descriptor)
    modes: list[int] = []
    for mode in (2, 2, 3, 1):
        segment.span_mode(mode)
        modes.append(reader.counters().span_mode)
    assert modes == [2, 2, 3, 1]


def test_cpu_of_start_up_and_of_nobody_arrives(segment: SegmentWriter) -> None:
    segment.startup_cpu, segment.none_cpu = 0.5, 0.25
    finish(segment, 7, cpu_at_exit=2.0)
    progress = SegmentReader(segment.path, segment.descriptor).progress()
    assert (progress.head, progress.finished_no, progress.cpu_at_exit) == (1, 7, 2.0)
    assert (progress.startup_cpu, progress.none_cpu) == (0.5, 0.25)


def test_a_signal_handler_that_publishes_harms_neither_its_thread_nor_the_names(tmp_path: Path) -> None:
    path = tmp_path / "1-1.seg"
    killed_process(
        path,
        """
        handled, number = 0, 0
        def handler(*_):
            global handled
            handled += 1
            segment.string(f"handler {handled}")
            segment.spill(b"from the handler")
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        while handled < 200:
            number += 1
            segment.spill(b"from the task")
            segment.string(f"task {number % 1000}")
        signal.setitimer(signal.ITIMER_REAL, 0)
        finish(segment, 1, task="task 7")
        finish(segment, 2, task="the last one")
        """,
    )
    reader = SegmentReader(path)
    assert [one.task for one in reader.drain(ended=True)] == ["task 7", "the last one"]
    reader.close()


def test_an_exception_from_a_signal_handler_does_not_shift_the_names(tmp_path: Path) -> None:
    path = tmp_path / "1-1.seg"
    killed_process(
        path,
        """
        class TimeLimit(Exception): pass
        def handler(*_):
            raise TimeLimit
        signal.signal(signal.SIGALRM, handler)
        number = raised = 0
        while raised < 100:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0003)
                while True:
                    number += 1
                    segment.string(f"{number % 2500}")
            except TimeLimit:
                raised += 1
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        for number in range(900):
            finish(segment, number + 1, task=f"{number}")
        """,
    )
    reader = SegmentReader(path)
    assert [one.task for one in reader.drain(ended=True)] == [str(number) for number in range(900)]
    reader.close()


def test_the_owner_s_segment_comes_first_and_a_missing_folder_is_empty(tmp_path: Path) -> None:
    directory = AgentDirectory(tmp_path)
    for name in ("9-1.seg", "owner.seg", "10-1.seg", "journal-000000000001.bin"):
        (tmp_path / name).touch()
    assert [path.name for path in directory.segments()] == ["owner.seg", "10-1.seg", "9-1.seg"]
    assert AgentDirectory(tmp_path / "gone").segments() == []
    directory.remove()
    assert not tmp_path.exists()
    directory.remove()


def test_a_private_directory_is_made_and_used(tmp_path: Path) -> None:
    runtime, refused = RuntimeDirectory.open(tmp_path / "new" / "place")
    agent = runtime.agent(os.getpid())
    modes = [one.stat().st_mode & 0o777 for one in (runtime.path, agent.path)]
    assert (runtime.path, refused, modes) == (tmp_path / "new" / "place", [], [0o700, 0o700])
    assert list(runtime.agents()) == [agent]
    assert [path.name for path in runtime.path.iterdir()] == ["agents"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.mkdir(mode=0o755), "open to others"),
        (lambda path: path.touch(), "is not a directory|cannot be made"),
        (lambda path: path.symlink_to("/"), "is not a directory"),
    ],
)
def test_a_directory_that_is_not_private_is_passed_over_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], reason: str
) -> None:
    fallback = tmp_path / "fallback"
    monkeypatch.setattr("taskwatt.segments.directory.SHARED_MEMORY", tmp_path / "none")
    monkeypatch.setattr("tempfile.tempdir", str(fallback))
    fallback.mkdir()
    make(tmp_path / "wanted")
    runtime, refused = RuntimeDirectory.open(tmp_path / "wanted")
    assert runtime.path == fallback / f"taskwatt-{os.getuid()}"
    assert len(refused) == 1
    assert any(part in refused[0] for part in reason.split("|"))


def test_no_usable_directory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr("taskwatt.segments.directory.SHARED_MEMORY", tmp_path / "none")
    monkeypatch.setattr("tempfile.tempdir", str(file))
    with pytest.raises(UnusableDirectory, match="cannot be made"):
        RuntimeDirectory.open(file / "below")


def test_a_reader_meets_every_number_whole_while_it_is_rewritten(path: Path) -> None:
    script = f"""
from pathlib import Path
from tests.support.segments import child
segment = child(Path({str(path)!r}))
segment.startup_cpu = 0.5
segment.span_mode(3)
segment.progress()
print("ready", flush=True)
while True:
    segment.finished_no += 1
    segment.progress()
    segment.count(2)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        reader = SegmentReader(path)
        progress = [reader.progress() for _ in range(20_000)]
        modes = {reader.counters().span_mode for _ in range(20_000)}
        reader.close()
        process.kill()
    assert {one.startup_cpu for one in progress} == {0.5}
    assert [one.finished_no for one in progress] == sorted(one.finished_no for one in progress)
    assert modes == {3}
