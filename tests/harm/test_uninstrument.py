"""`uninstrument` leaves the process as it was: nothing patched, connected, open or running; also the fiftieth time."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.brokers import RedisServer
from tests.support.processes import REPOSITORY, clean_environ
from tests.support.receiver import Receiver

WATCHED = """
import gc, json, logging, os, signal, sys, threading

def state():
    import billiard.popen_fork, celery.app.task, celery.app.trace, celery.signals, celery.worker.request
    import celery.worker.consumer.consumer, kombu.serialization
    registry = kombu.serialization.registry
    signals = {name: one for name, one in vars(celery.signals).items() if hasattr(one, "receivers")}
    found = {
        "trace": [celery.app.trace.fast_trace_task, celery.app.trace.build_tracer, celery.app.trace.trace_task_ret],
        "aliases": [celery.worker.request.fast_trace_task, celery.worker.consumer.consumer.build_tracer],
        "signals": {name: [key for key, _ in one.receivers or ()] for name, one in signals.items()},
        "encoders": dict(registry._encoders), "decoders": dict(registry._decoders),
        "default": registry._default_encode,
        "json": [json.JSONEncoder.encode, json.JSONDecoder.decode, json.dumps, json.loads],
        "gc": list(gc.callbacks), "finders": list(sys.meta_path), "billiard": billiard.popen_fork.os,
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "handlers": [signal.getsignal(number) for number in signal.valid_signals()],
        "filters": [f for l in logging.root.manager.loggerDict.values() for f in getattr(l, "filters", ())
            if type(f).__module__.startswith("taskwatt")],
        "level": logging.getLogger("taskwatt").level, "switch": sys.getswitchinterval(), "hooks": [
            sys.excepthook, sys.unraisablehook, threading.excepthook, sys.gettrace(), sys.getprofile()],
        "tracers": [cell.cell_contents for cell in app.tasks["add"].__trace__.__closure__ or ()]
            if app.tasks["add"].__trace__ else [],
    }
    found["descriptors"] = len(os.listdir("/proc/self/fd"))
    found["files"] = sorted(os.listdir(os.environ["TASKWATT_DIR"] + "/agents")) if used else []
    return found

def differences(before, after):
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}

import celery.worker.request, celery.worker.consumer.consumer, billiard.popen_fork
from celery import Celery
used = False
app = Celery("harm", broker=os.environ["TEST_BROKER"])

@app.task(name="add")
def add(a, b):
    return a + b
"""


def run(code: str, broker: RedisServer, folder: Path, **environ: str) -> str:
    given = {"TASKWATT_DIR": str(folder / "taskwatt"), "TEST_BROKER": broker.url, **environ}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WATCHED + textwrap.dedent(code)],
        cwd=REPOSITORY,
        env=clean_environ(**given),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


ONCE = """
import taskwatt
def cycle():
    global used
    taskwatt.instrument()
    changed = len(differences(before, state()))
    assert celery.worker.request.fast_trace_task is celery.app.trace.fast_trace_task
    add.delay(1, 2)                      # makes this process an owner with an agent
    used = True
    assert [t.name for t in threading.enumerate() if t.name.startswith("taskwatt")]
    app.tasks["add"].__trace__ = celery.app.trace.build_tracer("add", app.tasks["add"], app=app)
    assert add.apply((1, 2)).get() == 3
    taskwatt.uninstrument()
    return changed
add.delay(0, 0)                          # opens what celery opens
app.tasks["add"].__trace__ = celery.app.trace.build_tracer("add", app.tasks["add"], app=app)
tracer = app.tasks["add"].__trace__
gc.collect()                             # and closes what is garbage of it
"""


def test_everything_is_as_it_was(broker: RedisServer, tmp_path: Path, receiver: Receiver) -> None:
    code = """
    before = state()
    changed = cycle()
    app.tasks["add"].__trace__ = tracer
    gc.collect()
    assert changed > 5
    print(differences(before, state()))
    """
    said = run(ONCE + textwrap.dedent(code), broker, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    assert said == "{}"
    assert receiver.named("apply_async/add")


@pytest.mark.parametrize("endpoint", [True, False])
def test_it_can_be_repeated_fifty_times(
    broker: RedisServer, tmp_path: Path, receiver: Receiver, endpoint: bool
) -> None:
    code = """
    before = state()
    for _ in range(2):
        cycle()
    app.tasks["add"].__trace__ = tracer
    gc.collect()
    objects = len(gc.get_objects())
    for _ in range(48):
        cycle()
    app.tasks["add"].__trace__ = tracer
    gc.collect()
    kinds = {type(one).__name__ for one in gc.get_objects()}
    large = sorted({"Agent", "Journal", "MeterProvider", "Pipeline", "SegmentWriter", "SegmentReader"} & kinds)
    print(differences(before, state()), large, (len(gc.get_objects()) - objects) // 48)
    """
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint} if endpoint else {}
    same, _, grown = run(ONCE + textwrap.dedent(code), broker, tmp_path, **environ).rpartition(" ")
    assert same == "{} []"
    assert int(grown) < 30, (
        "more stays of a cycle than the fork handlers of OpenTelemetry's providers, about 20 objects"
    )


def test_what_somebody_else_patched_meanwhile_is_left_alone(broker: RedisServer, tmp_path: Path) -> None:
    code = """
    import taskwatt
    taskwatt.instrument()
    ours = celery.app.trace.fast_trace_task
    def theirs(*args, **kwargs):
        return ours(*args, **kwargs)
    celery.app.trace.fast_trace_task = theirs
    encode = json.JSONEncoder.encode
    json.JSONEncoder.encode = lambda self, o: encode(self, o)
    patched = json.JSONEncoder.encode
    taskwatt.uninstrument()
    assert celery.app.trace.fast_trace_task is theirs and json.JSONEncoder.encode is patched
    print(json.dumps([add(1, 2)]))
    """
    assert run(code, broker, tmp_path) == "[3]"
