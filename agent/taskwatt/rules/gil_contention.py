"""Claim: threads beside the event loop hold the interpreter, so that the loop waits for it whenever it wants to run.

A thread that sleeps for a moment and looks when it gets the interpreter again tells how long that takes: about one
switch interval (5 ms) for each thread that wants to compute. The loop itself makes it late too, while it is busy: that
is taken off. No CPU is wasted by it; time is.
"""

from __future__ import annotations

from taskwatt.rules.finding import SETTLED_IN_S, Evidence, Finding, clear, conclude, not_enough_data
from taskwatt.rules.loop_share import NO_LOOP
from taskwatt.rules.statistics import host_confidence
from taskwatt.windows import InterpreterWindow, Window

CAUSE = "gil_contention"
WINDOW_S = 10.0

LATE_S = 0.0015
"""Beyond what the loop explains. Measured: one computing thread 3.2 to 4.6 ms, two 12 to 19, four 21 to 23; threads
that hash (and let go of the interpreter), threads that wait, and a saturated loop alone 0. Less than half of the least:
a window still holds seconds from before it began."""

ALL_LATE_S, WAITING = 0.003, 0.2
"""Beside a loop that is always busy the two cannot be told apart so: there, threads of the loop that neither run nor
wait for a CPU in the middle of a step do, while it takes so long to get the interpreter. Measured: 0.37 and 5.8 ms with
one computing thread, 0.01 and 3.8 ms with one that hashes."""

SWITCH_S = 0.005
"""`sys.getswitchinterval()`: how long a thread keeps the interpreter while another one wants it."""

THREADS_CPUS = 0.3
"""Used beside the loops. A thread that computes uses all that the interpreter gives: 0.6 beside a busy loop, 1.0
beside an idle one."""

PROBES = 20
"""Fewer do not carry a mean whose parts scatter by a switch interval."""

NEXT_STEP = (
    "Move the computing out of this interpreter: a ProcessPoolExecutor or a task queue, or code that lets go of the "
    "interpreter while it computes (NumPy, hashlib). More threads make it slower."
)


def check(window: Window) -> tuple[Finding, ...]:
    interpreter = window.interpreter
    if not window.loops:
        return (clear(CAUSE, window, NO_LOOP),)
    if interpreter is None or window.seconds < SETTLED_IN_S or interpreter.samples < _needed(interpreter, window):
        probes = interpreter.samples if interpreter is not None else 0  # a pool child has no thread that probes
        summary = (
            f"Only {window.seconds:.1f} s and {probes} probes were covered; a verdict needs "
            f"{SETTLED_IN_S:g} s and {PROBES}."
        )
        return (not_enough_data(CAUSE, window.process_class, summary),)
    late, threads = _late(interpreter, window), _threads(interpreter, window)
    lag = max(loop.delay_quantile(0.99) for loop in window.loops)
    evidence = (
        Evidence("interpreter_late_ms", 1e3 * late, 1e3 * LATE_S, interpreter.samples),
        Evidence("threads_cpus", threads, THREADS_CPUS, int(window.seconds)),
        Evidence("loops_waiting", interpreter.waiting, WAITING, int(window.seconds)),
        Evidence("lag_p99_s", lag, 0.1, int(window.seconds)),
    )
    numbers = (
        f"threads beside the event loop use {threads:.2f} CPUs (threshold {THREADS_CPUS:g}), and who wants the "
        f"interpreter gets it {1e3 * late:.1f} ms late because of them (threshold {1e3 * LATE_S:g} ms), while "
        f"{interpreter.waiting:.2f} loops wait for it in a step (threshold {WAITING:g})"
    )
    if not is_contended(window):
        return (clear(CAUSE, window, _quiet(interpreter, threads, numbers), evidence),)
    name = f", most of it in the thread {interpreter.hottest}" if interpreter.hottest else ""
    found = Finding(
        cause=CAUSE,
        verdict="found",
        process_class=window.process_class,
        confidence=host_confidence(interpreter.samples),
        summary=f"Computing threads hold the interpreter: {numbers}{name}; what arrives waits up to {lag:.2g} s.",
        evidence=evidence,
        ruled_out=(
            f"The loop's own work: it explains {1e3 * _own_late(window):.1f} ms of the delay, and is taken off.",
            "A lack of CPUs: what the probe waited for one is taken off.",
        ),
        next_step=NEXT_STEP,
    )
    return conclude((found,), found)


def _quiet(one: InterpreterWindow, threads: float, numbers: str) -> str:
    """The condition that is not met: what comes late where no thread computes is not late because of threads."""
    if threads < THREADS_CPUS:
        return (
            f"Threads beside the event loop use {threads:.2f} CPUs (threshold {THREADS_CPUS:g}): too little to keep "
            f"the interpreter from anyone."
        )
    said = f"{numbers[:1].upper()}{numbers[1:]}"
    if one.waiting >= WAITING:
        late = f"{1e3 * one.probe_late_s:.1f} ms late in all (threshold {1e3 * ALL_LATE_S:g} ms)"
        return f"{said}; but who wants it gets it {late}: they wait for something else."
    return f"{said}."


def _needed(one: InterpreterWindow, window: Window) -> int:
    """Probes. A process that waits has few of them; but where no thread computes, nothing is kept from anyone."""
    return PROBES if _threads(one, window) >= THREADS_CPUS else 1


def is_contended(window: Window) -> bool:
    """Do threads keep the interpreter from the loop? loop_blocked asks too, so as not to report one cause twice."""
    one = window.interpreter
    if one is None or one.samples < PROBES or _threads(one, window) < THREADS_CPUS:
        return False
    return _late(one, window) >= LATE_S or (one.waiting >= WAITING and one.probe_late_s >= ALL_LATE_S)


def _late(one: InterpreterWindow, window: Window) -> float:
    return max(0.0, one.probe_late_s - _own_late(window))


def _own_late(window: Window) -> float:
    """A loop that is busy keeps the interpreter from the probe for an interval at the most, in so much of the time."""
    return SWITCH_S * min(1.0, sum(loop.utilization for loop in window.loops))


def _threads(one: InterpreterWindow, window: Window) -> float:
    return max(0.0, one.python_cpu - _loops(window))


def _loops(window: Window) -> float:
    return sum(loop.cpu_s for loop in window.loops) / window.seconds
