"""What real programs showed in ten seconds on a loop of their own, written down: the series for the rules of loops."""

from __future__ import annotations

from taskwatt.observations import DELAY_BUCKETS, READY_BUCKETS, CodeSite
from taskwatt.windows import CoroutineWindow, HostWindow, InterpreterWindow, LoopWindow, Window

HOST = HostWindow(effective_cpus=2, own_cpu=1.0, own_run_delay=0.1)


def at(name: str, looks: int = 200) -> CodeSite:
    return CodeSite(name, name.rpartition(".")[2], "app.py", 12, 1.0, looks)


def delays(**seconds: float) -> tuple[float, ...]:
    """Seconds by what an arrival waits: `s0_1=3` is three seconds in the bucket up to 0.1 s."""
    found = [0.0] * (len(DELAY_BUCKETS) + 1)
    for bound, value in seconds.items():
        found[DELAY_BUCKETS.index(float(bound[1:].replace("_", ".")))] = value
    return tuple(found)


def ready(over: int, seconds: float, rest: float = 1.0) -> tuple[float, ...]:
    """`seconds` in iterations with more than `over` handles, `rest` in those with one."""
    found = [0.0] * (len(READY_BUCKETS) + 1)
    found[READY_BUCKETS.index(over) + 1] += seconds
    found[1] += rest
    return tuple(found)


def loop(cpu_s: float = 9.9, **figures: object) -> LoopWindow:
    given: dict[str, object] = {
        "iterations": 100_000,
        "busy_s": cpu_s,
        "idle_s": max(0.0, 10.0 - cpu_s),
        "delay": delays(s0_0005=10.0),
        "ready": ready(0, 0.0, cpu_s),
        "ready_max": 3,
        **figures,
    }
    return LoopWindow("MainThread", cpu_s=cpu_s, **given)  # type: ignore[arg-type]


UNSEEN = "protocol callbacks, plain callbacks and timers are not seen, only the time they take"


def uvloop(cpu_s: float = 3.3, **figures: object) -> LoopWindow:
    """A loop of which nobody counts what is ready: a timer that comes late tells of it, and long steps of tasks."""
    return loop(
        cpu_s, **{"kind": "uvloop", "partial": UNSEEN, "ready": ready(0, 0.0, cpu_s), "ready_max": 0, **figures}
    )


def window(
    *coroutines: CoroutineWindow,
    loops: tuple[LoopWindow, ...] | None = None,
    seconds: float = 10.0,
    interpreter: InterpreterWindow | None = None,
) -> Window:
    """`loops`: by default one that used 0.5 s more than its steps."""
    if loops is None:
        loops = (loop(sum(one.cpu_s for one in coroutines) + 0.5),) if coroutines else ()
    total = max(0.1, sum(one.cpu_s for one in loops))
    return Window(
        seconds,
        "job",
        (),
        HOST,
        cpu_total=total,
        cpu_none=0.0,
        cpu_unattributed=0.0,
        coroutines=coroutines,
        loops=loops,
        interpreter=interpreter,
    )


SPIN = CoroutineWindow(
    "app.spin",
    steps=1_758_000,
    cpu_s=3.7,
    self_wakes=1_757_900,
    started=1,
    live=1,
    looks=300,
    resumed_at=at("app.spin"),
)
CRUNCH = CoroutineWindow(
    "app.crunch", steps=4_950, cpu_s=9.89, self_wakes=4_925, started=24, completed=24, looks=300, longest_s=0.005
)
HANDLER = CoroutineWindow(
    "app.handle", steps=120_000, cpu_s=7.0, started=40_000, completed=40_000, waits=300, short_waits=300, looks=300
)
CONSUMER = CoroutineWindow(
    "app.consume", steps=18_520, cpu_s=9.5, started=1, live=1, waits=300, short_waits=300, looks=300
)
RECONNECT = CoroutineWindow(
    "app.client",
    steps=64_238,
    cpu_s=3.4,
    started=1,
    live=1,
    waits=150,
    short_waits=150,
    looks=300,
    connecting=300,
    resumed_at=at("app.client"),
)
AT_END = CoroutineWindow(
    "app.on_readable", kind="io", steps=1_609_660, cpu_s=2.7, looks=200, at_end=200,
    defined_at=CodeSite("app.on_readable", "on_readable", "app.py", 7, 0.0, 0),
)  # fmt: skip
FLOODED_SOCKET = CoroutineWindow("app.Sink.datagram_received", kind="io", steps=325_545, cpu_s=1.9, looks=200)
REDIS_POLL = CoroutineWindow(
    "app.listen",
    steps=960,
    cpu_s=0.062,
    started=1,
    live=1,
    waits=200,
    short_waits=200,
    looks=300,
    timed_out=300,
    resumed_at=at("app.listen"),
)
SLEEP_POLL = CoroutineWindow(
    "app.poll",
    steps=8_928,
    cpu_s=0.078,
    started=1,
    live=1,
    waits=200,
    short_waits=200,
    looks=300,
    sleeping=300,
    resumed_at=at("app.poll"),
)
HTTP_POLL = CoroutineWindow(
    "app.ask", steps=1_182, cpu_s=0.172, started=1, live=1, waits=150, short_waits=150, looks=200, sleeping=106
)
SCHEDULER = CoroutineWindow("app.schedule", steps=95, cpu_s=0.471, started=1, live=1, waits=90, looks=95, sleeping=95)
COLLECT = CoroutineWindow(
    "app.collect",
    steps=2_951,
    cpu_s=4.5,
    started=1,
    live=1,
    looks=300,
    scanning=300,
    scanned=300 * 3_300,
    waits=100,
    short_waits=100,
    resumed_at=at("app.collect"),
)
ENRICH = CoroutineWindow(
    "app.enrich", steps=360_000, cpu_s=1.9, wall_s=3.1, longest_s=0.24, started=120_000, completed=120_000, looks=300
)
"""Gathered by the 30,000 on uvloop; the step that makes them is a long one of its own."""
EXPORT = CoroutineWindow("app.export", steps=8, cpu_s=1.1, wall_s=1.7, longest_s=0.47)
JOB = CoroutineWindow("app.job", steps=100_000, cpu_s=3.1, started=50_000, completed=50_000, looks=300, sleeping=300)
