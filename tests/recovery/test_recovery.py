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
    """A living agent with a folder of its own, and what it has taken over."""

    def __init__(self, directory: AgentDirectory) -> None:
        self.directory = directory
        self.taken: list[Recovered] = []

    def recover(self, dead: AgentDirectory) -> bool | None:
        """None: there is nothing to take; False: not yet."""
        found = recover(dead, self.directory, NO_STATES.get)
        if found is not None and found.complete:
            self.taken.append(found)
        return None if found is None else found.complete

    @property
    def attempts(self) -> list[tuple[str, str]]:
        return [(one.attempt.task, one.attempt.outcome) for found in self.taken for one in found.collected.settled]

    @property
    def unsent(self) -> list[int]:
        journals = [journal for found in self.taken for journal in found.journals]
        return [record.sequence for journal in journals for _, record in journal.unsent(1_000)]


@pytest.fixture
def survivor(tmp_path: Path) -> Survivor:
    (tmp_path / "survivor").mkdir()
    return Survivor(AgentDirectory(tmp_path / "survivor"))


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
    assert survivor.recover(directory) is None


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
    collected = survivor.taken[0].collected
    assert (collected.kernel, collected.idle_cpu, collected.live) == ({"worker": 30 * 0.25}, {}, [])


def test_a_live_agent_is_left_alone(directory: AgentDirectory, survivor: Survivor) -> None:
    owner = child(directory.owner_segment, layout.OWNER)
    finish(owner, 1)
    assert (survivor.recover(directory), directory.owner_segment.exists()) == (None, True)
    owner.close()


def test_children_that_are_still_ending_are_waited_for(directory: AgentDirectory, survivor: Survivor) -> None:
    owner, pool = child(directory.owner_segment, layout.OWNER), child(directory.path / "5-5.seg")
    finish(pool, 1)
    die(owner)
    waited = survivor.recover(directory)
    finish(pool, 2)
    die(pool)
    assert waited is False
    assert survivor.recover(directory)
    assert len(survivor.attempts) == 2


TAKE_OVER = """
import os, signal, sys
from pathlib import Path
from taskwatt.recovery import recover
from taskwatt.segments import AgentDirectory, SegmentWriter, layout
dead, mine = map(AgentDirectory, map(Path, sys.argv[1:]))
mine.path.mkdir()
segment = SegmentWriter(mine.owner_segment, layout.OWNER, "worker")
print("ready", flush=True)
sys.stdin.readline()
found = recover(dead, mine, {}.get)
print(len(found.collected.settled) if found else "", flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


def other_survivor(dead: AgentDirectory, folder: Path) -> subprocess.Popen[str]:
    """A process that takes over at the first line it is told, says how much it took, and dies at the second."""
    command = [sys.executable, "-c", TAKE_OVER, str(dead.path), str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert said(process) == "ready\n"
    return process


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_survivor_that_dies_once_it_has_recovered_leaves_everything_to_the_next(
    directory: AgentDirectory, survivor: Survivor, tmp_path: Path
) -> None:
    dead_agent(directory, drained=7, undrained=23)
    other = other_survivor(directory, tmp_path / "other")
    tell(other)
    assert said(other) == "30\n"
    tell(other)
    other.communicate(timeout=30)
    assert survivor.recover(AgentDirectory(tmp_path / "other"))
    assert survivor.attempts == [("drained", "useful")] * 7 + [("undrained", "useful")] * 23
    assert survivor.unsent == list(range(1, 31))


def test_of_several_survivors_at_the_same_moment_one_recovers(directory: AgentDirectory, tmp_path: Path) -> None:
    dead_agent(directory, drained=7, undrained=23)
    survivors = [other_survivor(directory, tmp_path / f"{number}") for number in range(4)]
    for one in survivors:
        tell(one)
    answers = sorted(said(one) for one in survivors)
    for one in survivors:
        tell(one)
        one.communicate(timeout=30)
    assert answers == ["\n", "\n", "\n", "30\n"]
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
    (settled,) = survivor.taken[0].collected.settled
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
    collected = survivor.taken[0].collected
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
    if content is not None:
        os.utime(directory.owner_segment, (now - age_s, now - age_s))
    assert survivor.recover(directory) is (True if age_s else None)
    assert (survivor.attempts, directory.path.exists()) == ([], age_s == 0)


def test_a_garbage_child_beside_good_ones_is_counted(directory: AgentDirectory, survivor: Survivor) -> None:
    dead_agent(directory, drained=1, undrained=1)
    garbage = directory.path / "6-6.seg"
    garbage.write_bytes(os.urandom(layout.SIZE))
    os.utime(garbage, (1, 1))
    os.utime(directory.path, (1, 1))
    survivor.recover(directory)
    assert len(survivor.attempts) == 2
    assert survivor.taken[0].collected.dropped == {"segment": 1}


def test_the_owner_s_own_attempt_in_flight_is_settled(directory: AgentDirectory, survivor: Survivor) -> None:
    owner: SegmentWriter = child(directory.owner_segment, layout.OWNER)
    finish(owner, 1)
    begin(owner, 2, task="shop.solo")
    die(owner)
    survivor.recover(directory)
    assert survivor.attempts == [("shop.pay", "useful"), ("shop.solo", "cancelled")]
