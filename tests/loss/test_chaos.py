"""Children are killed at random while tasks run: every attempt is accounted for, once."""

from __future__ import annotations

import random
import time
from contextlib import suppress

import psutil
import pytest

from tests.loss.books import Told, Truth, nothing_is_lost
from tests.loss.conftest import StartWorker
from tests.support.brokers import RedisServer
from tests.support.processes import wait_for


@pytest.mark.parametrize("seed", [20])
def test_every_attempt_is_accounted_for_when_children_are_killed_at_random(
    start: StartWorker, truth: Truth, told: Told, redis_server: RedisServer, seed: int
) -> None:
    chance = random.Random(seed)
    worker = start("--concurrency", "3", "--max-tasks-per-child", "29")
    for _ in range(307):
        worker.send("finish", chance.choice([0.0, 0.01, 0.1]), chance.choice([0.0, 0.005]))
    killed = 0
    until = time.monotonic() + 40
    while redis_server.client.llen("celery") and time.monotonic() < until:
        time.sleep(chance.uniform(0.2, 0.9))
        with suppress(psutil.NoSuchProcess, IndexError):
            chance.choice(worker.children).kill()
            killed += 1
    for _ in range(11):
        worker.send("finish")
    wait_for(lambda: redis_server.client.llen("celery") == 0, 30, "an empty queue")
    wait_for(lambda: redis_server.client.hlen("unacked") == 0, 30, "nothing unacked")
    assert killed >= 5
    nothing_is_lost(truth, told, 200, 60)
