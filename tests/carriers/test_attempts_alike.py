"""The same messages leave the same bytes behind, whichever carrier measures their attempts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from taskwatt.export.context import Sample, follow_parent
from taskwatt.segments import SegmentReader, SegmentWriter, layout
from taskwatt.segments.layout import Record
from taskwatt_celery.attempt import Recorder
from taskwatt_celery.hook import end_attempt
from tests.support.carriers import recorders_in_c


class Text(str):
    """A kind of text of the user's own."""

    __slots__ = ()


class Number(int):
    """A kind of number of the user's own."""


class Headers(dict[str, Any]):
    """A kind of request that answers what it was not given."""

    def get(self, key: str, default: Any = None) -> Any:
        return {"retries": 3}.get(key, super().get(key, default))


class Unwilling:
    """Neither true nor false."""

    def __bool__(self) -> bool:
        raise LookupError("unwilling")


TRACE = f"00-{'1a' * 16}-{'2b' * 8}-01"
ODD: tuple[Any, ...] = (
    None, "", "text", "x" * 10_000, "\ud800", "ünïcode", Text("celery"), 0, 1, -1, True, False, Number(3), 1 << 16,
    1 << 40, 1 << 64, 1 << 80, -(1 << 80), 0.0, 1.5, -0.0, math.inf, -math.inf, math.nan, 10**400, b"bytes", [], [1],
    {}, {"routing_key": "x"}, (), object(), Unwilling(),
)  # fmt: skip
TRACES: tuple[Any, ...] = (
    TRACE, TRACE, TRACE[:-1] + "0", TRACE.upper(), TRACE + "-more", TRACE + "x", TRACE[:-1], "00" + TRACE, "", "-" * 55,
    f"ff{TRACE[2:]}", f"cc{TRACE[2:]}", f"00-{'0' * 32}-{'2b' * 8}-01", f"00-{'1a' * 16}-{'0' * 16}-01",
    f"00--{'1' * 31}-{'2' * 16}-01", f"00-{'1_' * 16}-{'2' * 16}-01", f"000-{'1a' * 16}-{'2b' * 8}-1",
    f"00-{'1a' * 16}-{'2b' * 8}-ff", f"00-{'1a' * 15}1\xe9-{'2b' * 8}-01", TRACE[:20] + "\u0661" + TRACE[21:], *ODD,
)  # fmt: skip
IDS: tuple[Any, ...] = (
    "00000000-0000-0000-0000-000000000001", "0" * 36, "", "short", "x" * 10_000, "\ud800", "é" * 18, "é" * 36,
    Text("0" * 36),
)  # fmt: skip
USUAL: dict[str, tuple[Any, ...]] = {
    "delivery_info": (
        {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False},
        {"routing_key": "celery", "redelivered": None},
        {"routing_key": "other", "redelivered": True},
    ),
    "retries": (0, 0, 1, 7),
    "replaced_task_nesting": (0, 0, 1, 70_000),
    "taskwatt_depth": (0, 0, 0, 2),
    "taskwatt_published": (1.5e9, 1.7e9),
    "taskwatt_previous": (None, TRACE),
    "traceparent": (TRACE, TRACE[:-1] + "0", TRACE),
    "eta": (None, None, None, "2026-01-01T00:00:00", "2026-01-01T00:00:00+01:00"),
    "argsrepr": ("()",),
}
HOSTILE = {
    **dict.fromkeys(USUAL, ODD),
    "traceparent": TRACES,
    "taskwatt_previous": TRACES,
    "delivery_info": (
        *ODD,
        *({"routing_key": one, "redelivered": two} for one, two in zip(ODD, ODD[::-1], strict=True)),
    ),
    "eta": (*ODD, "2026-01-01T00:00:00", "0001-01-01T00:00:00+23:59", "soon"),
    "tracestate": ("a=b", None, 5),
    "baggage": ("a=b", {}),
}


class Message(NamedTuple):
    task: Any
    task_id: Any
    request: Any
    body: Any
    end: str


TASKS: tuple[Any, ...] = ("tests.add", "tests.other", "t" * 10_000, "ü", Text("tests.add"))


def messages(seed: int, number: int = 150) -> list[Message]:
    """Two thirds of them such as Celery sends; in the others anything may be anything."""
    dice = random.Random(seed)
    found: list[Message] = []
    for _ in range(number):
        hostile = dice.random() < 0.33
        request: dict[str, Any] = {"id": "x"}
        for name, values in USUAL.items():
            if dice.random() < 0.7:
                request[name] = dice.choice(values)
        for name in dice.sample(sorted(HOSTILE), dice.randrange(1, 4)) if hostile else ():
            request[name] = dice.choice(HOSTILE[name])
        found.append(
            Message(
                dice.choice(
                    ("tests.add", "tests.other", "t" * 10_000, "ü", Text("tests.add")) if hostile else ("tests.add",)
                ),
                dice.choice(IDS) if hostile else f"00000000-0000-0000-0000-{dice.getrandbits(40):012d}",
                Headers(request) if dice.random() < 0.03 else request,
                dice.choice((b"[]", "[[], {}, {}]", "ü" * 70_000, None, Text("[]"), bytearray(b"[]"))),
                dice.choice(("returned", "returned", "returned", "failed", "not stored", "set something", "no body")),
            )
        )
    return found


ENDS: dict[str, tuple[Any, ...]] = {
    "returned": (0, "None", 0.1),
    "failed": (0, "None", 0.1),
    "not stored": (1, None, 0.1),
    "set something": (0, "None", 0.1),
    "no body": (0, "None", 0.1),
}


def attempt(recorder: Recorder, message: Message) -> str:
    """As the hook has it; the class of what was raised, if anything was."""
    task, task_id, request, body, end = message
    try:
        run = recorder.begin(task, task_id, request, body)
        entered = recorder.enter_body() if end != "no body" else None
        assert entered is run or end == "no body"
        assert recorder.enter_body() is None or end == "no body"
        if end == "set something" and run.scope.span is not None:
            run.scope.span.set_attribute("a", "b")
        if end == "failed":
            run.error = ValueError("meant to fail")
        if entered is not None:
            recorder.leave_body(run, None)
        end_attempt(recorder, run, task_id, None, ENDS[end])
    except Exception as error:
        if recorder.running is not None:
            recorder.running.scope.leave()
            recorder.running = None
        return type(error).__name__
    return ""


class Left(NamedTuple):
    """All that attempts leave in a segment, but for the clocks'."""

    raised: list[str]
    records: list[tuple[Any, ...]]
    in_flight: tuple[Any, ...]
    regions: list[bytes]


CLOCKS: dict[str, Any] = dict.fromkeys(
    ("start_ns", "duration", "business", "serialization", "gc", "framework", "agent", "max_rss"), 0
)


def without_clocks(payload: bytes, published: Any) -> tuple[Any, ...]:
    record = Record.unpack(payload)
    since = record.start_ns / 1e9 - published if isinstance(published, float) else math.nan
    wait = "as published" if record.queue_wait == since else "unknown" if math.isnan(record.queue_wait) else "other"
    return tuple(record._replace(queue_wait=0, retry_delay=0, **CLOCKS)), wait, record.duration >= 0


def left_by(recorders: Callable[..., Recorder], path: Path, sent: list[Message], sample: Sample) -> Left:
    writer = SegmentWriter(path, layout.CHILD, "worker")
    random.seed(5)  # of the ids of traces and spans
    recorder = recorders(writer, sample)
    raised: list[str] = []
    records: list[tuple[Any, ...]] = []
    reader = SegmentReader(path, writer.descriptor)
    for message in sent:
        before = recorder._cpu_at_exit
        raised.append(attempt(recorder, message))
        for drained in reader.drain():
            record = Record.unpack(drained.payload)
            total = record.business + record.serialization + record.gc + record.framework + record.agent
            assert 0 <= total <= recorder._cpu_at_exit - before + 1e-9 or recorder._thread_at_exit is not None
            records.append((drained.task, drained.queue, drained.user_data, *without_clocks(
                drained.payload, message.request.get("taskwatt_published")
            )))  # fmt: skip
        reader.commit()
        assert reader.progress().cpu_at_exit == writer.cpu_at_exit
    with path.open("rb") as file:
        raw = file.read()
    at = layout.IN_FLIGHT_AT + layout.IN_FLIGHT.size
    in_flight = without_clocks(raw[at : at + layout.RECORD.size], None)
    spans = ((layout.COUNTERS_AT, layout.COUNTERS.size), (layout.STRINGS_AT, layout.STRINGS_SIZE),
             (layout.SPILL_AT, layout.SPILL_SIZE))  # fmt: skip
    regions = [raw[start : start + size] for start, size in spans]
    writer.close()
    return Left(raised, records, in_flight, regions)


@pytest.fixture
def accelerated() -> type[Recorder]:
    return recorders_in_c()


@pytest.fixture(autouse=True)
def other_random_numbers() -> Iterator[None]:
    state = random.getstate()
    yield
    random.setstate(state)


SAMPLERS = {
    "the default": Sample(None, (), follow_parent),
    "never": Sample(None, (), lambda *_: False),
    "by trace": Sample(None, (), lambda flags, trace_id: trace_id[0] & 1 == 1 if flags is None else bool(flags & 1)),
    "asked itself": Sample(lambda *_: True),
    "with exclusions": Sample(None, ("*other",), follow_parent),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("seed", range(6))
def test_any_messages_leave_the_same_behind(
    accelerated: type[Recorder], tmp_path: Path, seed: int, sampler: str
) -> None:
    sent = messages(seed)

    in_python = left_by(Recorder, tmp_path / "1-1.seg", sent, SAMPLERS[sampler])
    in_c = left_by(accelerated, tmp_path / "1-2.seg", sent, SAMPLERS[sampler])

    assert in_c == in_python
    assert len(in_c.records) > 100


def test_usual_attempts_never_come_to_python(
    accelerated: type[Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the comparison above would be one of Python with itself."""
    request = {name: values[0] for name, values in USUAL.items()}
    retried = request | {"retries": 1, "taskwatt_previous": TRACE, "delivery_info": {"redelivered": True}}
    usual = [
        Message("tests.add", f"00000000-0000-0000-0000-{number:012d}", sent, b"[]", "returned")
        for number, sent in enumerate((request, retried, {"id": "x"}) * 10)
    ]
    left_by(Recorder, tmp_path / "1-1.seg", usual, SAMPLERS["the default"])  # learns which propagators are usual
    reached: list[str] = []

    def count(name: str) -> None:
        original = getattr(Recorder, name)

        def counted(self: Recorder, *args: Any) -> Any:
            reached.append(name)
            return original(self, *args)

        monkeypatch.setattr(Recorder, name, counted)

    for name in ("begin", "enter_body", "leave_body", "end", "_split", "_close_span"):
        count(name)
    watched = recorders_in_c()
    left_by(watched, tmp_path / "1-2.seg", usual, SAMPLERS["the default"])
    assert reached == ["end", "_split", "_close_span"]  # the first: it tells whose spans these are
