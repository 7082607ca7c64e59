"""The accelerator of attempts does no harm: it lets go of all, steps aside, and shares the segment with Python."""

from __future__ import annotations

import contextvars
import functools
import gc
import inspect
import json
import logging
import random
import struct
import sys
import threading
import weakref
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace

from taskwatt.export.context import Sample, follow_parent
from taskwatt.meter import meter
from taskwatt.segments import SegmentReader, SegmentWriter, layout
from taskwatt.segments.layout import Record
from taskwatt_celery.attempt import Recorder
from taskwatt_celery.hook import end_attempt
from taskwatt_celery.running import Running
from tests.support.carriers import recorders_in_c
from tests.support.segments import record
from tests.support.tasks import burn_for

ID = "00000000-0000-0000-0000-000000000001"
RETURNED = (0, "None", 0.1)
TRACE = f"00-{'1a' * 16}-{'2b' * 8}-01"


@pytest.fixture
def accelerated() -> type[Recorder]:
    return recorders_in_c()


@pytest.fixture
def recorder(accelerated: type[Recorder], tmp_path: Path) -> Iterator[Recorder]:
    """One that has begun and ended an attempt already."""
    writer = SegmentWriter(tmp_path / "1-1.seg", layout.CHILD, "worker")
    recorder = accelerated(writer, Sample(None, (), follow_parent))
    for _ in range(2):
        plain(recorder)
    yield recorder
    writer.close()


def plain(recorder: Recorder, request: dict[str, Any] | None = None, burn_s: float = 0.0) -> Running:
    run = recorder.begin("tests.add", ID, {"traceparent": TRACE} if request is None else request, b"[]")
    assert recorder.enter_body() is run
    if burn_s:
        burn_for(burn_s)
    recorder.leave_body(run, None)
    end_attempt(recorder, run, ID, None, RETURNED)
    return run


def read(recorder: Recorder) -> list[Record]:
    reader = SegmentReader(recorder.segment.path, recorder.segment.descriptor)
    return [Record.unpack(one.payload) for one in reader.drain()]


def test_nothing_is_kept_of_an_attempt(recorder: Recorder) -> None:
    request: dict[str, Any] = {
        "traceparent": TRACE,
        "taskwatt_previous": TRACE,
        "taskwatt_published": 1.5e9,
        "delivery_info": {"routing_key": "celery", "redelivered": False},
        "eta": None,
    }
    kept = [request, *request.values(), "tests.add", ID, None, True, False, RETURNED, recorder, recorder.segment]

    def many(number: int) -> None:
        for _ in range(number):
            plain(recorder, request)

    many(2000)  # which fills the ring: from then on all are totals
    gc.collect()
    before, blocks = [sys.getrefcount(one) for one in kept], sys.getallocatedblocks()
    many(2000)
    gc.collect()
    grown = [after - count for after, count in zip(map(sys.getrefcount, kept), before, strict=True)]
    assert (max(map(abs, grown)) < 100, abs(sys.getallocatedblocks() - blocks) < 1500) == (True, True)


def test_messages_that_are_left_to_python_are_let_go_of_as_well(recorder: Recorder) -> None:
    odd: list[dict[str, Any]] = [
        {
            "traceparent": TRACE,
            "taskwatt_previous": "odd",
            "delivery_info": {"routing_key": "celery", "redelivered": 1},
        },
        {"traceparent": "00-odd", "taskwatt_previous": TRACE, "delivery_info": {"routing_key": 5}},
        {"traceparent": TRACE, "baggage": "a=b", "eta": "soon", "retries": 1 << 70},
    ]

    def many() -> None:
        for _ in range(300):
            for request in odd:
                plain(recorder, request)

    for _ in range(2):  # which fills the ring
        many()
    gc.collect()
    kept = [one for request in odd for one in (request, *request.values())]
    before, blocks = [sys.getrefcount(one) for one in kept], sys.getallocatedblocks()
    many()
    gc.collect()
    grown = [after - count for after, count in zip(map(sys.getrefcount, kept), before, strict=True)]
    assert (max(map(abs, grown)) < 100, abs(sys.getallocatedblocks() - blocks) < 700) == (True, True)


def test_a_full_ring_is_counted_in_totals(recorder: Recorder) -> None:
    for _ in range(layout.RING_SLOTS + 100):
        plain(recorder)
    reader = SegmentReader(recorder.segment.path, recorder.segment.descriptor)
    in_ring = len(reader.drain())
    in_cells = sum(cell.attempts for cell in reader.cells())
    assert (in_ring, in_ring + in_cells) == (layout.RING_SLOTS - layout.RING_MARGIN, layout.RING_SLOTS + 102)
    assert reader.progress().finished_no == layout.RING_SLOTS + 102


def test_other_threads_write_into_the_same_segment_meanwhile(recorder: Recorder) -> None:
    """As publishes do; all find their place, and a reader that looks all the while finds every one whole."""
    segment, stop = recorder.segment, threading.Event()
    publishers = [threading.Thread(target=publish_all, args=(segment, number)) for number in range(2)]
    found: list[Record] = []
    reader = SegmentReader(segment.path, segment.descriptor)

    def read_on() -> None:
        while not stop.is_set():
            found.extend(Record.unpack(one.payload) for one in reader.drain())
            reader.commit()

    watcher = threading.Thread(target=read_on)
    for thread in (watcher, *publishers):
        thread.start()
    for _ in range(300):
        plain(recorder)
    for thread in publishers:
        thread.join()
    stop.set()
    watcher.join()
    found.extend(Record.unpack(one.payload) for one in reader.drain())
    counted = Counter(one.kind for one in found)
    in_cells = sum(cell.attempts for cell in reader.cells())
    assert counted[layout.ATTEMPT] + in_cells == 302
    assert counted[layout.PUBLISH] == 600
    assert reader.damaged == 0


def publish_all(segment: SegmentWriter, number: int) -> None:
    for published in range(300):
        while not segment.put(record(kind=layout.PUBLISH, body_size=number, max_rss=published), 0, 0.0):
            pass


def test_what_a_body_uses_is_split_as_it_is_in_python(recorder: Recorder) -> None:
    meter_before = meter.serialization
    run = recorder.begin("tests.add", ID, {}, b"[]")
    meter.serialization += 0.01
    recorder.enter_body()
    burn_for(0.05)
    meter.serialization += 0.02
    recorder.leave_body(run, None)
    burn_for(0.03)
    assert recorder.end_plainly(run, RETURNED)
    meter.serialization = meter_before
    last = read(recorder)[-1]
    assert last.serialization == pytest.approx(0.03)
    assert 0.03 <= last.business < 0.04
    assert 0.015 <= last.framework < 0.03
    assert last.duration >= 0.08


def test_a_killed_attempt_is_found_with_the_time_at_which_its_body_began(recorder: Recorder) -> None:
    run = recorder.begin("tests.add", ID, {"retries": 3}, b"[1]")
    reader = SegmentReader(recorder.segment.path, recorder.segment.descriptor)
    reader.drain()
    before = reader.in_flight()
    recorder.enter_body()
    within = reader.in_flight()
    assert before is not None
    assert within is not None
    assert (before.cpu_at_body, within.cpu_at_body is not None) == (None, True)
    begun = Record.unpack(within.record.payload)
    assert (begun.task_id, begun.retries, begun.attempt_no, begun.body_size) == (ID.encode(), 3, run.attempt_no, 3)


@pytest.mark.parametrize(
    ("unusual", "result"),
    [
        (lambda _: None, (1, None, 0.1)),
        (lambda _: None, None),
        (lambda _: None, (0,)),
        (lambda _: None, [0, "None"]),
        (lambda run: setattr(run, "error", ValueError()), RETURNED),
        (lambda run: run.scope.span.set_attribute("a", "b"), RETURNED),
        (lambda run: setattr(run, "finished_body", False), RETURNED),
        (lambda run: setattr(run, "others", object()), RETURNED),
        (lambda run: setattr(run, "sampler", object()), RETURNED),
        (lambda run: setattr(run.scope, "mode", 2), RETURNED),
        (lambda run: setattr(run, "flags", run.flags | layout.ID_SPILLED), RETURNED),
    ],
)
def test_an_unusual_end_is_left_to_python_untouched(recorder: Recorder, unusual: Any, result: Any) -> None:
    run = recorder.begin("tests.add", ID, {}, b"[]")
    recorder.enter_body()
    recorder.leave_body(run, None)
    unusual(run)
    before = recorder.segment.path.read_bytes(), trace.get_current_span()
    assert recorder.end_plainly(run, result) is False
    assert recorder.running is run
    assert (recorder.segment.path.read_bytes(), trace.get_current_span()) == before
    run.scope.leave()


def test_its_span_is_current_in_the_body_and_no_longer(recorder: Recorder) -> None:
    outside = trace.get_current_span()
    run = recorder.begin("tests.add", ID, {"traceparent": TRACE}, b"[]")
    recorder.enter_body()
    inside = trace.get_current_span()
    recorder.leave_body(run, None)
    end_attempt(recorder, run, ID, None, RETURNED)
    assert (inside is run.scope.span, trace.get_current_span() is outside) == (True, True)
    assert f"{inside.get_span_context().trace_id:032x}" == "1a" * 16
    assert inside.is_recording()


def test_a_scope_that_is_left_elsewhere_is_said_as_opentelemetry_says_it(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    run = contextvars.copy_context().run(recorder.begin, "tests.add", ID, {}, b"[]")
    recorder.enter_body()
    recorder.leave_body(run, None)
    with caplog.at_level(logging.ERROR):
        assert recorder.end_plainly(run, RETURNED)
    assert [one.getMessage() for one in caplog.records] == ["Failed to detach context"]


def test_contexts_that_opentelemetry_keeps_elsewhere_are_entered_and_left_through_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entered: list[Any] = []

    class Elsewhere:
        def attach(self, context: Any) -> Any:
            entered.append(context)
            return len(entered)

        def detach(self, token: Any) -> None:
            entered[token - 1] = None

        def get_current(self) -> Any:
            return otel_context.Context()

    monkeypatch.setattr(otel_context, "_RUNTIME_CONTEXT", Elsewhere())
    writer = SegmentWriter(tmp_path / "1-1.seg", layout.CHILD, "worker")
    recorder = recorders_in_c()(writer, Sample(None, (), follow_parent))
    for _ in range(3):
        plain(recorder)
    assert entered == [None] * 3
    writer.close()


def test_a_segment_that_was_closed_is_an_error_as_it_is_in_python(recorder: Recorder, tmp_path: Path) -> None:
    run = recorder.begin("tests.add", ID, {}, b"[]")
    recorder.enter_body()
    recorder.leave_body(run, None)
    segment = SegmentWriter(tmp_path / "1-2.seg", layout.CHILD, "worker")
    segment.close()
    recorder.segment, open_one = segment, recorder.segment
    for moment in (
        lambda: recorder.begin("tests.add", ID, {}, b"[]").scope.leave(),
        lambda: recorder.end_plainly(run, RETURNED),
    ):
        with pytest.raises(ValueError, match="closed"):
            moment()
    recorder.segment = open_one


def test_arguments_of_another_number_or_kind_are_errors_and_no_more(recorder: Recorder) -> None:
    methods: dict[str, Any] = {
        name: getattr(recorder, name) for name in ("begin", "enter_body", "leave_body", "end_plainly")
    }
    for method, arguments in (
        ("begin", ()), ("begin", (1, 2, 3, 4)), ("begin", (1, 2, 3, 4, 5, 6)), ("enter_body", (1,)), ("leave_body", ()),
        ("leave_body", (1, 2)), ("leave_body", (recorder, None, None)), ("end_plainly", ()),
    ):  # fmt: skip
        with pytest.raises((TypeError, AttributeError)):
            methods[method](*arguments)
    assert methods["end_plainly"](object(), RETURNED) is False
    for segment in (None, object()):
        recorder.segment, before = segment, recorder.segment  # type: ignore[assignment]
        with pytest.raises((TypeError, AttributeError)):
            recorder.begin("tests.add", ID, {}, b"[]")
        recorder.segment = before
        otel_context.attach(otel_context.Context())


def test_what_is_not_as_it_was_refuses_it_and_leaves_what_there_is_alone(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taskwatt_celery import accelerated as module
    from taskwatt_fast import Refused

    class WithoutSlots:
        pass

    changes: dict[str, tuple[Any, str, Any]] = {
        "it was built for another layout of segments": (layout, "HOT_LAYOUT", f"{layout.HOT_LAYOUT} more"),
        "Running.attempt_no is no slot": (module, "Running", type("Running", (), {})),
        "Recorder is missing": (module, "Recorder", type("Other", (Recorder,), {"__slots__": ()})),
        "a part is of another kind than it was": (module, "meter", WithoutSlots()),
    }
    said: list[str] = []
    for target, name, value in changes.values():
        with monkeypatch.context() as changed:
            changed.setattr(target, name, value)
            with pytest.raises(Refused) as refused:
                module.accelerated()
        said.append(str(refused.value))
    assert said == list(changes)
    plain(recorder)
    assert read(recorder)[-1].attempt_no == 3


def test_checksums_are_those_of_zlib(accelerated: type[Recorder]) -> None:
    from taskwatt_fast import _attempts

    dice = random.Random(3)
    given = [(dice.randbytes(size), dice.getrandbits(32)) for size in (*range(20), 255, 256, 257, 70_001)]
    assert [_attempts.crc32(*one) for one in given] == [zlib.crc32(*one) for one in given]


def test_code_is_sampled_when_the_drainer_asks(recorder: Recorder) -> None:
    until = struct.pack("<Q", 1 << 62)
    recorder.segment._map[layout.READER_AT + 8 : layout.READER_AT + 16] = until
    run = recorder.begin("tests.add", ID, {}, b"[]")
    sampled = run.sampler is not None
    end_attempt(recorder, run, ID, None, RETURNED)
    assert sampled


def test_threads_that_were_there_before_are_not_the_attempts(recorder: Recorder) -> None:
    stop = threading.Event()

    def burn() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=burn)
    thread.start()
    plain(recorder)  # whose end finds the thread
    plain(recorder, burn_s=0.1)
    stop.set()
    thread.join()
    last = read(recorder)[-1]
    assert last.business <= 0.11
    assert recorder.segment.none_cpu > 0


def test_the_hooks_own_cost_is_measured_now_and_then(recorder: Recorder) -> None:
    for _ in range(20):
        plain(recorder)
    assert [one.agent > 0 for one in read(recorder)].index(True) == 2


def test_chosen_by_its_setting_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from taskwatt_celery import carriers

    recorders_in_c()
    carriers._said.clear()  # pyright: ignore[reportPrivateUsage]
    found: list[tuple[bool, str]] = []
    with caplog.at_level(logging.INFO, "taskwatt"):
        for setting in ("auto", "0", "0"):
            monkeypatch.setenv("TASKWATT_ACCELERATOR", setting)
            carriers.forget()
            found.append((carriers.recorders() is Recorder, carriers.sentence()))
            carriers.say()
    carriers.forget()
    refused = "pure Python: attempts (TASKWATT_ACCELERATOR=0 refuses the accelerator)"
    assert found == [(False, carriers.IN_C), (True, refused), (True, refused)]
    assert [one.getMessage() for one in caplog.records] == [
        f"taskwatt measures tasks with {one}" for one in (carriers.IN_C, refused)
    ]


@pytest.mark.parametrize(
    ("hidden", "reason"),
    [
        (("taskwatt_fast", "taskwatt_celery.accelerated"), "the accelerator, taskwatt-fast, is not installed"),
        (("taskwatt_fast._attempts",), "the accelerator was not taken: it is not built"),
    ],
)
def test_without_it_python_measures(hidden: tuple[str, ...], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from taskwatt_celery import carriers

    monkeypatch.delenv("TASKWATT_ACCELERATOR", raising=False)
    for name in hidden:
        monkeypatch.setitem(sys.modules, name, None)
    carriers.forget()
    assert carriers.recorders() is Recorder
    assert carriers.sentence() == f"{carriers.IN_PYTHON} ({reason})"
    carriers.forget()


def test_a_worker_without_loops_does_not_load_asyncio_for_it() -> None:
    import subprocess

    script = "import sys, json, taskwatt_fast.attempts; print(json.dumps('asyncio' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) is False


def test_encoders_are_called_as_they_are_without_it(accelerated: type[Recorder]) -> None:
    from taskwatt_fast import _attempts

    class Encoder:
        @_attempts.Timed
        def encode(self, *args: Any, **names: Any) -> tuple[Any, ...]:
            """Encodes."""
            return (self, args, names)

    one = Encoder()
    assert one.encode(1, b=2) == (one, (1,), {"b": 2})
    assert Encoder.encode(one) == (one, (), {})
    assert isinstance(Encoder.encode, _attempts.Timed)
    wrapped: Any = functools.update_wrapper(_attempts.Timed(len), len)
    wrapped.more = 5
    assert (wrapped("abc"), wrapped.__name__, wrapped.__wrapped__, wrapped.more) == (3, "len", len, 5)
    assert (repr(wrapped), inspect.signature(wrapped)) == (repr(len), inspect.signature(len))
    for wrong in ((), (1,), (len, 0, -1), (len, "x")):
        with pytest.raises(TypeError):
            _attempts.Timed(*wrong)
    with pytest.raises(TypeError):
        wrapped()


def test_short_inputs_of_a_decoder_are_not_measured_and_the_first_long_one_is_announced(
    accelerated: type[Recorder],
) -> None:
    from taskwatt_fast import _attempts

    said: list[str] = []

    def decode(data: Any = "") -> Any:
        said.append("decoded")
        burn_for(0.01)
        return data

    measured = _attempts.Timed(decode, 5, 0, lambda: said.append("long"))
    before = meter.serialization
    shorts: tuple[Any, ...] = ("abcd", b"abcd", [])
    for short in shorts:
        assert measured(short) is short
    unmeasured = meter.serialization - before
    for long in ("abcde", bytearray(10), [1] * 5, 7):
        assert measured(long) == long
    assert measured(data="by name") == "by name"
    assert (said, unmeasured) == (["decoded"] * 3 + ["long", "decoded"] * 3 + ["decoded", "long", "decoded"], 0.0)
    assert meter.serialization - before >= 0.03


def test_encoders_are_let_go_of(accelerated: type[Recorder]) -> None:
    from taskwatt_fast import _attempts

    def encode() -> None:
        raise LookupError

    wrapped: Any = _attempts.Timed(encode)
    wrapped.itself = wrapped
    gone = weakref.ref(wrapped), weakref.ref(encode)
    for _ in range(3):
        with pytest.raises(LookupError):
            wrapped()
    del wrapped, encode
    gc.collect()
    assert [one() for one in gone] == [None, None]
