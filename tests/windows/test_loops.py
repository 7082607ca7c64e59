"""From what carriers have counted to what happened lately: differences, of any process, never negative."""

from __future__ import annotations

import math
from typing import Any

from taskwatt.observations import (
    DELAY_BUCKETS,
    ENDED,
    READY_BUCKETS,
    CodeSite,
    CoroutineTally,
    ExecutorTally,
    InterpreterTally,
    LoopTally,
    Stall,
    Tallies,
)
from taskwatt.windows import CoroutineWindow, InterpreterWindow, LoopWindow
from taskwatt.windows.coroutines import TYPES
from taskwatt.windows.loop_totals import NAMES, CoroutineTotals, ExecutorTotals
from taskwatt.windows.loops import LOOPS, LoopWindows

SHORT, LONG = 3, 6


def delay(**seconds: float) -> tuple[float, ...]:
    """Seconds by index of the bucket."""
    buckets = [0.0] * (len(DELAY_BUCKETS) + 1)
    for at, spent in seconds.items():
        buckets[int(at[1:])] = spent
    return tuple(buckets)


def ready(*seconds: float) -> tuple[float, ...]:
    return (*seconds, *[0.0] * (len(READY_BUCKETS) + 1 - len(seconds)))


def tallies(
    coroutines: dict[str, CoroutineTally] | None = None,
    loops: dict[str, LoopTally] | None = None,
    executors: dict[str, ExecutorTally] | None = None,
    interpreter: InterpreterTally | None = None,
) -> Tallies:
    return Tallies(coroutines or {}, loops or {}, executors or {}, interpreter or InterpreterTally(), "pure Python")


def stall(**changed: Any) -> Stall:
    plain: dict[str, Any] = {
        "loop": "MainThread",
        "task": "shop.serve",
        "cause": "blocking",
        "start_ns": 1,
        "duration_s": 0.25,
        "cpu_s": 0.0,
        "run_delay_s": 0.0,
        "others_cpu_s": 0.0,
        "code": CodeSite("shop.serve", "fetch", "shop.py", 7, 1.0, 1),
        "stack": "",
        "trace_id": bytes(16),
        "span_id": bytes(8),
        "link_trace_id": bytes(16),
        "link_span_id": bytes(8),
    }
    return Stall(**(plain | changed))


class Ticks:
    """Windows that are fed by hand."""

    def __init__(self) -> None:
        self.windows = LoopWindows((SHORT, LONG))

    def tick(self, *stalls: Stall, **sources: Tallies) -> None:
        for source, counted in sources.items():
            self.windows.fold(source, counted)
        self.windows.stalled(stalls)
        self.windows.roll()

    def coroutines(self, span: int = SHORT) -> list[CoroutineWindow]:
        return list(self.windows.coroutines(span))

    def loops(self, span: int = SHORT) -> list[LoopWindow]:
        return list(self.windows.over(span))


def test_a_window_is_what_was_counted_within_it() -> None:
    ticks = Ticks()
    for second in range(1, 11):
        ticks.tick(own=tallies({"shop.serve": CoroutineTally("task", steps=second * 7, cpu_s=second * 0.5)}))
    assert ticks.coroutines() == [CoroutineWindow("shop.serve", steps=21, cpu_s=1.5)]
    assert ticks.coroutines(LONG) == [CoroutineWindow("shop.serve", steps=42, cpu_s=3.0)]


def test_every_figure_of_a_type_has_its_place() -> None:
    ticks = Ticks()
    now = CoroutineTally(
        kind="callback",
        steps=101,
        cpu_s=0.5,
        own_cpu_s=0.25,
        wall_s=2.0,
        longest_s=0.75,
        self_wakes=11,
        started=13,
        completed=5,
        failed=2,
        cancelled=1,
        never_retrieved=3,
        never_awaited=4,
        destroyed_pending=1,
        delays=50,
        delay_s=0.125,
        waits=23,
        short_waits=19,
        looks=8,
        sleeping=7,
        timed_out=3,
        connecting=2,
        scanning=5,
        scanned=500,
        last=4,
        woke=3,
        at_end=1,
        same_line=6,
        resumed_at=("poll", "shop.py", 3),
        defined_at=("serve", "shop.py", 1),
        costs=((4, 0.5),),
    )
    ticks.tick(own=tallies({"shop.serve": now}))
    assert ticks.coroutines() == [
        CoroutineWindow(
            name="shop.serve",
            kind="callback",
            steps=101,
            cpu_s=0.5,
            own_cpu_s=0.25,
            wall_s=2.0,
            longest_s=0.75,
            self_wakes=11,
            started=13,
            completed=5,
            failed=2,
            cancelled=1,
            live=4,
            waits=23,
            short_waits=19,
            looks=8,
            sleeping=7,
            timed_out=3,
            connecting=2,
            scanning=5,
            scanned=500,
            last=4,
            woke=3,
            at_end=1,
            resumed_at=CodeSite("shop.serve", "poll", "shop.py", 3, 0.75, 8),
            defined_at=CodeSite("shop.serve", "serve", "shop.py", 1, 0.0, 0),
            costs=((4, 0.5),),
        )
    ]
    assert ticks.windows.totals.coroutines == {
        "shop.serve": CoroutineTotals(101, 11, 3, 4, 1, delays=50, delay_s=0.125)
    }


def test_a_type_that_did_nothing_lately_is_not_in_the_window() -> None:
    ticks = Ticks()
    for _ in range(LONG):
        ticks.tick(own=tallies({"shop.serve": CoroutineTally("task", steps=7)}))
    assert (ticks.coroutines(), ticks.coroutines(LONG)) == ([], [CoroutineWindow("shop.serve", steps=7)])
    ticks.tick(own=tallies({"shop.serve": CoroutineTally("task", steps=7)}))
    assert ticks.coroutines(LONG) == []


def test_the_longest_step_of_a_window_is_the_longest_of_its_ticks() -> None:
    ticks = Ticks()
    for steps, longest in ((1, 0.25), (2, 0.5), (3, 0.125)):
        ticks.tick(own=tallies({"shop.serve": CoroutineTally("task", steps=steps, longest_s=longest)}))
    assert ticks.coroutines() == [CoroutineWindow("shop.serve", steps=3, longest_s=0.5)]


def test_types_of_several_processes_are_one() -> None:
    ticks = Ticks()
    one = CoroutineTally("task", steps=5, started=3, completed=1)
    other = CoroutineTally("task", steps=6, started=4)
    ticks.tick(a=tallies({"shop.serve": one}), b=tallies({"shop.serve": other}))
    assert ticks.coroutines() == [CoroutineWindow("shop.serve", steps=11, started=7, completed=1, live=6)]
    ticks.windows.forget("a")
    ticks.tick(b=tallies({"shop.serve": other._replace(completed=4)}))
    assert ticks.coroutines() == [CoroutineWindow("shop.serve", steps=11, started=7, completed=5)]


def test_a_process_that_begins_anew_gives_no_negative_difference() -> None:
    ticks = Ticks()
    ticks.tick(own=tallies({"shop.serve": CoroutineTally("task", steps=100, cpu_s=5.0)}))
    ticks.tick(own=tallies({"shop.serve": CoroutineTally("task", steps=3, cpu_s=0.5)}))
    assert ticks.coroutines() == [CoroutineWindow("shop.serve", steps=103, cpu_s=5.5)]


def test_a_reading_that_was_heard_already_repeats_no_longest_step() -> None:
    windows = LoopWindows((1,))
    windows.fold("child", tallies({"shop.serve": CoroutineTally("task", steps=1)}))
    windows.roll()
    windows.fold(
        "child", tallies({"shop.serve": CoroutineTally("task", 2, longest_s=9.0, costs=((1, 1.0),))}), anew=False
    )
    windows.roll()
    assert windows.coroutines(1) == (CoroutineWindow("shop.serve", steps=1),)


def test_the_line_of_a_type_s_stalls_is_where_it_is_hot() -> None:
    ticks = Ticks()
    elsewhere = CodeSite("shop.serve", "parse", "shop.py", 9, 1.0, 1)
    ticks.tick(
        stall(), stall(duration_s=0.5), stall(code=elsewhere), own=tallies({"shop.serve": CoroutineTally("task", 5)})
    )
    assert ticks.coroutines() == [
        CoroutineWindow("shop.serve", steps=5, code=CodeSite("shop.serve", "fetch", "shop.py", 7, 0.75, 2))
    ]


def test_a_line_belongs_to_the_row_that_paid_and_one_that_only_waited_to_none() -> None:
    ticks = Ticks()
    busy = stall(cause="own_cpu", row="GET /report/{id}")
    ticks.tick(busy, stall(cause="own_cpu"), stall(cause="blocking", row="GET /checkout"))
    expected = {name: CodeSite(name, "fetch", "shop.py", 7, 1.0, 1) for name in ("GET /report/{id}", "shop.serve")}
    assert ticks.windows.code(SHORT) == expected
    for _ in range(SHORT):
        ticks.tick()
    assert ticks.windows.code(SHORT) == {}


def test_types_beyond_the_bound_of_a_tick_share_one_line() -> None:
    ticks = Ticks()
    many = {f"shop.t{number}": CoroutineTally("task", 1, cpu_s=float(number)) for number in range(TYPES + 44)}
    ticks.tick(own=tallies(many))
    found = {one.name: one.cpu_s for one in ticks.coroutines()}
    assert len(found) == TYPES
    assert found["other"] == sum(range(45))
    assert sum(found.values()) == sum(range(TYPES + 44))


def test_names_of_series_are_bounded_too() -> None:
    ticks = Ticks()
    many = {f"shop.t{number}": CoroutineTally("task", 1) for number in range(NAMES + 23)}
    ticks.tick(own=tallies(many))
    totals = ticks.windows.totals.coroutines
    assert (len(totals), totals["other"].steps) == (NAMES + 1, 23)


def test_a_loop_s_window_is_what_it_did_within_it() -> None:
    ticks = Ticks()
    for second in range(1, 6):
        ticks.tick(
            own=tallies(
                loops={
                    "MainThread": LoopTally(
                        "uvloop",
                        True,
                        iterations=second * 10,
                        busy_s=second * 0.75,
                        idle_s=second * 0.25,
                        cpu_s=second * 0.5,
                        run_delay_s=second * 0.125,
                        delay=delay(b0=second * 0.5, b7=second * 0.5),
                        ready=ready(second * 0.25, second * 0.5),
                        ready_max=second,
                        slow_steps=second * 2,
                        slow_s=second * 0.375,
                        late_s=second * 0.25,
                        partial="protocol callbacks are not seen",
                    )
                }
            )
        )
    window = LoopWindow(
        name="MainThread",
        kind="uvloop",
        iterations=30,
        busy_s=2.25,
        idle_s=0.75,
        cpu_s=1.5,
        run_delay_s=0.375,
        delay=delay(b0=1.5, b7=1.5),
        ready=ready(0.75, 1.5),
        ready_max=5,
        slow_steps=6,
        slow_s=1.125,
        late_s=0.75,
        partial="protocol callbacks are not seen",
    )
    assert ticks.loops() == [window]
    assert (window.utilization, ticks.windows.totals.busy_s, ticks.windows.totals.idle_s) == (0.75, 3.75, 1.25)
    assert ticks.windows.totals.delay == list(delay(b0=2.5, b7=2.5))


def test_where_the_kernel_tells_no_run_queue_delay_there_is_none() -> None:
    ticks = Ticks()
    ticks.tick(own=tallies(loops={"MainThread": LoopTally("asyncio", iterations=5, run_delay_s=math.nan)}))
    assert [math.isnan(loop.run_delay_s) for loop in ticks.loops()] == [True]


def loop(iterations: int, **fields: Any) -> LoopTally:
    return LoopTally("asyncio", True, iterations=iterations, busy_s=iterations / 8, **fields)


def iterations(ticks: Ticks) -> dict[str, int]:
    return {one.name: one.iterations for one in ticks.loops()}


def test_what_was_not_told_of_a_loop_that_made_room_is_not_lost() -> None:
    ticks = Ticks()
    ticks.tick(own=tallies(loops={"MainThread": loop(100)}))
    ticks.tick(own=tallies(loops={ENDED: loop(3)}))
    assert iterations(ticks) == {"MainThread": 100, ENDED: 3}


def test_a_name_that_begins_anew_gives_no_negative_difference() -> None:
    ticks = Ticks()
    ticks.tick(own=tallies(loops={"MainThread": loop(100)}))
    ticks.tick(own=tallies(loops={"MainThread": loop(7), ENDED: loop(50)}))
    assert iterations(ticks) == {"MainThread": 107, ENDED: 50}


def test_stalls_are_told_by_cause_with_the_worst_of_them() -> None:
    ticks = Ticks()
    worst = stall(cause="gil", duration_s=2.0)
    ticks.tick(stall(), worst, own=tallies(loops={"MainThread": loop(8)}))
    ticks.tick(stall(duration_s=0.5), own=tallies(loops={"MainThread": loop(16)}))
    (found,) = ticks.loops()
    assert (found.stalls, found.worst) == ({"blocking": (2, 0.75), "gil": (1, 2.0)}, worst)
    for _ in range(SHORT):
        ticks.tick(own=tallies(loops={"MainThread": loop(24)}))
    assert [one.stalls for one in ticks.loops()] == [{}]


def test_steps_are_counted_however_few_of_them_left_a_record() -> None:
    ticks = Ticks()
    for second in range(1, 4):
        told = (stall(),) if second == 1 else ()
        ticks.tick(
            *told, own=tallies(loops={"MainThread": loop(8 * second, slow_steps=7 * second, slow_s=1.5 * second)})
        )
    (found,) = ticks.loops()
    assert (found.slow_steps, found.slow_s, found.stalls) == (21, 4.5, {"blocking": (1, 0.25)})


def test_stalls_of_a_loop_that_has_ended_are_among_those_that_ended() -> None:
    ticks = Ticks()
    ticks.tick(stall(loop="Thread-1"), own=tallies(loops={ENDED: loop(8)}))
    assert [(one.name, one.stalls) for one in ticks.loops()] == [(ENDED, {"blocking": (1, 0.25)})]


def test_a_stall_of_a_loop_that_nobody_counted_is_told_all_the_same() -> None:
    ticks = Ticks()
    ticks.tick(stall())
    assert ticks.loops() == [
        LoopWindow("MainThread", slow_steps=1, slow_s=0.25, stalls={"blocking": (1, 0.25)}, worst=stall())
    ]


def test_a_tick_in_which_a_loop_was_held_up_is_told_apart() -> None:
    ticks = Ticks()
    told = []
    for slow, stalls in ((0, ()), (1, ()), (1, ()), (1, (stall(),)), (1, ())):
        ticks.tick(*stalls, own=tallies(loops={"MainThread": loop(8, slow_steps=slow)}))
        told.append(ticks.windows.blocked)
    assert told == [False, True, False, True, False]


def test_loops_beyond_the_bound_of_a_tick_share_one_line() -> None:
    ticks = Ticks()
    ticks.tick(own=tallies(loops={f"Thread-{number}": loop(8) for number in range(LOOPS + 5)}))
    found = iterations(ticks)
    assert (len(found), found["other"]) == (LOOPS + 1, 40)


def test_of_several_interpreters_the_one_whose_threads_wait_most_is_told() -> None:
    ticks = Ticks()
    quiet = InterpreterTally(probes=5, late_s=0.0, watched_s=1.0, threads_cpu_s=0.5)
    ticks.tick(a=tallies(interpreter=quiet))
    busy = InterpreterTally(probes=4, late_s=0.5, watched_s=2.0, threads_cpu_s=2.0, waiting_s=3.0, hottest="crunch")
    ticks.tick(a=tallies(interpreter=quiet), b=tallies(interpreter=busy))
    told = InterpreterWindow(python_cpu=1.0, probe_late_s=0.125, samples=4, waiting=1.5, hottest="crunch")
    assert ticks.windows.interpreter(SHORT) == told
    for _ in range(LONG):
        ticks.tick(a=tallies(interpreter=quiet), b=tallies(interpreter=busy))
    assert ticks.windows.interpreter(LONG) is None


def test_what_waited_for_a_thread_is_added_up_by_kind() -> None:
    ticks = Ticks()
    ticks.tick(own=tallies(executors={"to_thread": ExecutorTally(submitted=10, wait_s=0.5, queued_now=4)}))
    ticks.tick(own=tallies(executors={"to_thread": ExecutorTally(submitted=13, wait_s=0.75, queued_now=2)}))
    assert ticks.windows.totals.by_executor == {"to_thread": ExecutorTotals(started=11, wait_s=0.75)}
    assert ticks.windows.queued() == {"to_thread": 2}
