"""What a dead agent left: counted once more by nobody, sent by the survivor, and cleared away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from taskwatt.drainer import Drainer
from taskwatt.journal import Journal
from taskwatt.recovery import Recovered, recover
from taskwatt.segments import AgentDirectory, SegmentWriter, layout
from tests.support.segments import START_NS, begin, child, die, finish

NO_STATES: dict[str, str] = {}


@pytest.fixture
def directory(tmp_path: Path) -> AgentDirectory:
    (tmp_path / "dead").mkdir()
    return AgentDirectory(tmp_path / "dead")


class Survivor:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.kept: list[Recovered] = []

    def recover(self, directory: AgentDirectory) -> bool:
        return recover(directory, NO_STATES.get, self.kept.append)

    @property
    def attempts(self) -> list[tuple[str, str]]:
        return [(one.attempt.task, one.attempt.outcome) for found in self.kept for one in found.collected.settled]

    @property
    def unsent(self) -> list[int]:
        return [record.sequence for found in self.kept for record in found.unsent]


@pytest.fixture
def survivor() -> Survivor:
    return Survivor()


def dead_agent(directory: AgentDirectory, *, drained: int, undrained: int) -> None:
    """An agent that drained some attempts of its child, and died before it drained the others."""
    owner, pool = child(directory.owner_segment, layout.OWNER), child(directory.path / "5-5.seg")
    for number in range(1, drained + 1):
        finish(pool, number, task="drained")
    journal = Journal(directory.path)
    drainer = Drainer(directory, journal, {}, NO_STATES.get, owner)
    drainer.collect()
    drainer.close()
    journal.close()
    for number in range(drained + 1, drained + undrained + 1):
        finish(pool, number, task="undrained")
    die(owner)
    die(pool)


def test_what_it_had_drained_and_what_it_had_not_is_recovered_once(
    directory: AgentDirectory, survivor: Survivor
) -> None:
    dead_agent(directory, drained=7, undrained=23)
    assert survivor.recover(directory)
    assert survivor.attempts == [("drained", "useful")] * 7 + [("undrained", "useful")] * 23
    assert survivor.unsent == list(range(1, 31))
    assert not directory.path.exists()
    assert survivor.recover(directory)
    assert len(survivor.kept) == 1


def test_what_the_receivers_have_is_not_counted_and_not_sent_again(
    directory: AgentDirectory, survivor: Survivor
) -> None:
    dead_agent(directory, drained=7, undrained=2)
    Journal(directory.path).accept(spans=4, metrics=6)
    survivor.recover(directory)
    assert survivor.attempts == [("drained", "useful")] + [("undrained", "useful")] * 2
    assert survivor.unsent == [5, 6, 7, 8, 9]


def test_its_cpu_is_what_its_attempts_used_and_nothing_idle_is_claimed(
    directory: AgentDirectory, survivor: Survivor
) -> None:
    dead_agent(directory, drained=7, undrained=23)
    survivor.recover(directory)
    collected = survivor.kept[0].collected
    assert (collected.kernel, collected.idle_cpu, collected.live) == ({"worker": 30 * 0.25}, {}, [])


def test_a_live_agent_is_left_alone(directory: AgentDirectory, survivor: Survivor) -> None:
    owner = child(directory.owner_segment, layout.OWNER)
    finish(owner, 1)
    assert survivor.recover(directory)
    assert (survivor.kept, directory.owner_segment.exists()) == ([], True)
    owner.close()


def test_children_that_are_still_ending_are_waited_for(directory: AgentDirectory, survivor: Survivor) -> None:
    owner, pool = child(directory.owner_segment, layout.OWNER), child(directory.path / "5-5.seg")
    finish(pool, 1)
    die(owner)
    waited = survivor.recover(directory), len(survivor.kept)
    finish(pool, 2)
    die(pool)
    assert waited == (False, 0)
    assert survivor.recover(directory)
    assert len(survivor.attempts) == 2


def test_a_survivor_that_dies_while_it_recovers_leaves_everything_to_the_next(
    directory: AgentDirectory, survivor: Survivor
) -> None:
    dead_agent(directory, drained=7, undrained=23)
    script = f"""
import os, signal
from pathlib import Path
from taskwatt.recovery import recover
from taskwatt.segments import AgentDirectory
recover(AgentDirectory(Path({str(directory.path)!r})), {{}}.get, lambda found: os.kill(os.getpid(), signal.SIGKILL))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    survivor.recover(directory)
    assert survivor.attempts == [("drained", "useful")] * 7 + [("undrained", "useful")] * 23
    assert survivor.unsent == list(range(1, 31))


def test_of_several_survivors_at_the_same_moment_one_recovers(directory: AgentDirectory) -> None:
    dead_agent(directory, drained=7, undrained=23)
    script = f"""
import sys, time
from pathlib import Path
from taskwatt.recovery import recover
from taskwatt.segments import AgentDirectory
print("ready", flush=True)
sys.stdin.readline()
def keep(found):
    time.sleep(0.1)
    print(len(found.collected.settled))
recover(AgentDirectory(Path({str(directory.path)!r})), {{}}.get, keep)
"""
    survivors = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for one in survivors:
        assert one.stdout is not None
        one.stdout.readline()
    for one in survivors:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    printed = sorted(one.communicate(timeout=30)[0] for one in survivors)
    assert printed == ["", "", "", "30\n"]
    assert not directory.path.exists()


def test_a_survivor_that_fails_to_keep_it_does_not_keep_it_twice(directory: AgentDirectory) -> None:
    dead_agent(directory, drained=1, undrained=1)

    def fail(found: Recovered) -> None:
        raise RuntimeError(len(found.collected.settled))

    with pytest.raises(RuntimeError, match="2"):
        recover(directory, NO_STATES.get, fail)
    assert not directory.path.exists()


def test_an_attempt_that_died_with_its_agent_lasted_until_the_agent_was_last_seen(
    directory: AgentDirectory, survivor: Survivor
) -> None:
    owner, pool = child(directory.owner_segment, layout.OWNER), child(directory.path / "5-5.seg")
    begin(pool, 1, task="shop.slow", start_ns=START_NS)
    directory.latest.write_text("{}")
    os.utime(directory.latest, ns=(START_NS + 5_000_000_000,) * 2)
    die(owner)
    die(pool)
    survivor.recover(directory)
    (settled,) = survivor.kept[0].collected.settled
    assert settled.attempt.outcome == "cancelled"
    assert settled.attempt.duration_s == pytest.approx(5.0, abs=1e-3)


def test_totals_of_a_full_ring_are_recovered(directory: AgentDirectory, survivor: Survivor) -> None:
    owner, pool = child(directory.owner_segment, layout.OWNER), child(directory.path / "5-5.seg")
    number = 1
    while finish(pool, number):
        number += 1
    die(owner)
    die(pool)
    survivor.recover(directory)
    collected = survivor.kept[0].collected
    assert len(collected.settled) + sum(one.attempts for one in collected.totals) == number
    assert collected.kernel == {"worker": number * 0.25}


@pytest.mark.parametrize("age_s", [0, 3600])
@pytest.mark.parametrize("content", [None, b"", b"garbage" * 100])
def test_a_folder_without_a_readable_owner_is_rubbish_after_a_while(
    directory: AgentDirectory, survivor: Survivor, content: bytes | None, age_s: int
) -> None:
    if content is not None:
        directory.owner_segment.write_bytes(content)
    now = directory.path.stat().st_mtime
    os.utime(directory.path, (now - age_s, now - age_s))
    assert survivor.recover(directory)
    assert (survivor.kept, directory.path.exists()) == ([], age_s == 0)


def test_a_garbage_child_beside_good_ones_is_counted(directory: AgentDirectory, survivor: Survivor) -> None:
    dead_agent(directory, drained=1, undrained=1)
    garbage = directory.path / "6-6.seg"
    garbage.write_bytes(os.urandom(layout.SIZE))
    os.utime(garbage, (1, 1))
    survivor.recover(directory)
    assert len(survivor.attempts) == 2
    assert survivor.kept[0].collected.dropped == {"segment": 1}


def test_the_owner_s_own_attempt_in_flight_is_settled(directory: AgentDirectory, survivor: Survivor) -> None:
    owner: SegmentWriter = child(directory.owner_segment, layout.OWNER)
    finish(owner, 1)
    begin(owner, 2, task="shop.solo")
    die(owner)
    survivor.recover(directory)
    assert survivor.attempts == [("shop.pay", "useful"), ("shop.solo", "cancelled")]
