"""The capacity identity on a made-up machine written to disk, with made-up clocks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from taskwatt.windows import HostWindow
from taskwatt.windows.capacity import KEEP_S, Capacity

TICKS = os.sysconf("SC_CLK_TCK")


class Machine:
    """/proc and /sys/fs/cgroup as files; CPU clocks and affinity as dicts."""

    def __init__(self, root: Path) -> None:
        self.proc, self.cgroup = root / "proc", root / "cgroup"
        self.cpu: dict[int, float] = {}
        self.cpus: dict[int, frozenset[int]] = {}
        self.up = 1000.0
        self.capacity: Capacity | None = None
        (self.proc / "self").mkdir(parents=True)
        self.cgroup.mkdir()
        self.stat()

    def process(self, pid: int, cpu: float, delay: float | None = 0.0, cpus: int = 4, born: float = 10.0) -> None:
        self.cpu[pid], self.cpus[pid] = cpu, frozenset(range(cpus))
        task = self.proc / str(pid) / "task" / str(pid)
        task.mkdir(parents=True, exist_ok=True)
        fields = ["S", *["0"] * 18, str(round(born * TICKS)), "0"]
        (self.proc / str(pid) / "stat").write_text(f"{pid} (celery) {' '.join(fields)}\n")
        (task / "schedstat").write_text("0 0 0\n" if delay is None else f"1 {round(delay * 1e9)} 1\n")

    def end(self, pid: int) -> None:
        del self.cpu[pid], self.cpus[pid]
        task = self.proc / str(pid) / "task"
        (task / str(pid) / "schedstat").unlink()
        (task / str(pid)).rmdir()
        task.rmdir()

    def stat(self, steal: int = 0, idle: int = 0, idle_s: tuple[float, ...] = (0.0,)) -> None:
        """`idle_s`: seconds that each CPU has been idle."""
        each = "".join(
            f"cpu{number} 0 0 0 {seconds * TICKS:.0f} 0 0 0 0 0 0\n" for number, seconds in enumerate(idle_s)
        )
        (self.proc / "stat").write_text(f"cpu  0 0 0 {idle} 0 0 0 {steal} 7 7\n{each}intr 0\n")

    def tick(self, at: float) -> Capacity:
        (self.proc / "uptime").write_text(f"{self.up + at:.2f} 0.00\n")
        if self.capacity is None:
            self.capacity = Capacity(self.proc, self.cgroup, self.cpu.get, self.cpus.get, cpu_count=4)
        self.capacity.sample(at, sorted(self.cpu))
        return self.capacity


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_three_busy_processes_on_one_cpu_show_an_excess_of_two(machine: Machine) -> None:
    for pid in (11, 12, 13):
        machine.process(pid, cpu=5.0, delay=1.0, cpus=1)
    machine.tick(0)
    for pid in (11, 12, 13):
        machine.process(pid, cpu=8.0, delay=7.0, cpus=1)
    window = machine.tick(9).window(10)
    assert window == HostWindow(
        1.0, 1.0, 2.0, None, None, runnable_processes=3, idle_cpus=0.0, summed_excess=2.0, summed_shortfall=0.0
    )
    assert (window.own_excess, window.shortfall) == (2.0, 0.0)


def test_a_crowded_second_does_not_hide_behind_a_quiet_one(machine: Machine) -> None:
    machine.process(11, cpu=0.0, delay=0.0, cpus=1)
    machine.tick(0)
    machine.tick(1)
    machine.process(11, cpu=1.0, delay=2.0, cpus=1)
    window = machine.tick(2).window(10)
    assert (window.demand, window.own_excess) == (1.5, 1.0)


def test_waiting_while_a_cpu_of_ours_is_idle_is_nobody_s_fault(machine: Machine) -> None:
    machine.process(11, cpu=0.0, delay=0.0, cpus=2)
    machine.stat(idle_s=(100.0, 100.0, 100.0))
    machine.tick(0)
    machine.process(11, cpu=0.3, delay=0.6, cpus=2)
    machine.stat(idle_s=(100.0, 100.5, 101.0))
    window = machine.tick(1).window(10)
    assert window.idle_cpus == 0.5
    assert window.shortfall == pytest.approx(0.1)


def test_a_kernel_that_does_not_tell_of_each_cpu_leaves_idle_time_unknown(machine: Machine) -> None:
    machine.process(11, cpu=0.0, delay=0.0, cpus=2)
    machine.tick(0)
    machine.process(11, cpu=0.3, delay=0.6, cpus=2)
    window = machine.tick(1).window(10)
    assert window.idle_cpus is None
    assert window.shortfall == pytest.approx(0.6)


def test_one_sample_is_capacity_without_rates(machine: Machine) -> None:
    machine.process(11, cpu=5.0)
    assert machine.tick(0).window(10) == HostWindow(4.0, None, None)


def test_a_window_covers_only_its_seconds(machine: Machine) -> None:
    machine.process(11, cpu=0.0)
    machine.tick(0)
    machine.process(11, cpu=10.0)
    machine.tick(10)
    machine.process(11, cpu=11.0)
    assert machine.tick(20).window(10).own_cpu == pytest.approx(0.1)
    assert machine.tick(20).window(20).own_cpu == pytest.approx(0.55)


def test_a_process_that_died_keeps_what_it_had_used(machine: Machine) -> None:
    machine.process(11, cpu=1.0, delay=1.0)
    machine.process(12, cpu=1.0, delay=1.0)
    machine.tick(0)
    machine.process(12, cpu=3.0, delay=5.0)
    machine.tick(1)
    machine.end(12)
    machine.tick(2)
    window = machine.tick(4).window(10)
    assert (window.own_cpu, window.own_run_delay) == (0.5, 1.0)


def test_a_child_born_since_the_last_sample_counts_from_its_birth(machine: Machine) -> None:
    machine.process(11, cpu=1.0)
    machine.tick(0)
    machine.process(12, cpu=0.5, delay=0.25, born=1000.5)
    assert machine.tick(1).window(10).own_cpu == pytest.approx(0.5)
    assert machine.tick(1).window(10).own_run_delay == pytest.approx(0.25)


def test_an_old_process_reported_late_counts_only_from_then_on(machine: Machine) -> None:
    machine.process(11, cpu=1.0)
    machine.tick(0)
    machine.process(12, cpu=500.0, delay=70.0, born=20.0)
    assert machine.tick(1).window(10).own_cpu == 0.0
    assert machine.tick(1).window(10).own_run_delay == 0.0


def test_a_pid_given_to_a_new_process_never_turns_the_sum_back(machine: Machine) -> None:
    machine.process(11, cpu=100.0, delay=9.0)
    machine.tick(0)
    machine.process(11, cpu=0.5, delay=0.25, born=1000.5)
    window = machine.tick(1).window(10)
    assert (window.own_cpu, window.own_run_delay) == (0.5, 0.25)


def test_a_kernel_without_run_delay_leaves_it_unknown(machine: Machine) -> None:
    machine.process(11, cpu=1.0, delay=None)
    machine.tick(0)
    machine.process(11, cpu=2.0, delay=None)
    window = machine.tick(1).window(10)
    assert (window.own_cpu, window.own_run_delay, window.own_excess) == (1.0, None, None)


def test_processes_that_cannot_be_read_leave_own_cpu_unknown(machine: Machine) -> None:
    capacity = Capacity(machine.proc, machine.cgroup, lambda pid: None, lambda pid: None, cpu_count=4)
    capacity.sample(0, [11])
    capacity.sample(1, [11])
    assert capacity.window(10) == HostWindow(4.0, None, None)


def test_an_idle_process_is_not_runnable(machine: Machine) -> None:
    machine.process(11, cpu=1.0)
    machine.process(12, cpu=1.0)
    machine.tick(0)
    machine.process(11, cpu=1.005)
    machine.process(12, cpu=1.5)
    assert machine.tick(1).window(10).runnable_processes == 1


def test_time_stolen_by_the_hypervisor_is_a_share_of_all_time(machine: Machine) -> None:
    machine.stat(steal=100, idle=900)
    machine.tick(0)
    machine.stat(steal=150, idle=1350)
    assert machine.tick(1).window(10).steal_ratio == 0.1


def test_samples_are_forgotten_after_a_while(machine: Machine) -> None:
    machine.process(11, cpu=0.0)
    machine.tick(0)
    machine.process(11, cpu=50.0)
    machine.tick(50)
    machine.process(11, cpu=51.0)
    assert machine.tick(KEEP_S + 10).window(10_000).own_cpu == pytest.approx(1.0 / (KEEP_S - 40))


def limit_v2(level: Path, quota: str, periods: int = 0, throttled: int = 0) -> None:
    level.mkdir(parents=True, exist_ok=True)
    (level / "cpu.max").write_text(f"{quota}\n")
    (level / "cpu.stat").write_text(f"usage_usec 1\nnr_periods {periods}\nnr_throttled {throttled}\nthrottled_usec 9\n")


def limit_v1(level: Path, quota: int, periods: int = 0, throttled: int = 0) -> None:
    level.mkdir(parents=True, exist_ok=True)
    (level / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (level / "cpu.cfs_period_us").write_text("100000\n")
    (level / "cpu.stat").write_text(f"nr_periods {periods}\nnr_throttled {throttled}\nthrottled_time 9\n")


def effective(machine: Machine) -> float:
    return machine.tick(0).window(10).effective_cpus


def test_a_version_2_quota_limits_the_effective_cpus(machine: Machine) -> None:
    (machine.proc / "self/cgroup").write_text("0::/app.slice/worker\n")
    (machine.cgroup / "cgroup.controllers").write_text("cpu\n")
    limit_v2(machine.cgroup / "app.slice/worker", "50000 100000")
    assert effective(machine) == 0.5


def test_the_tightest_level_counts_also_on_a_parent(machine: Machine) -> None:
    (machine.proc / "self/cgroup").write_text("0::/app.slice/worker\n")
    (machine.cgroup / "cgroup.controllers").write_text("cpu\n")
    limit_v2(machine.cgroup / "app.slice/worker", "max 100000")
    limit_v2(machine.cgroup / "app.slice", "150000 100000")
    assert effective(machine) == 1.5


def test_a_container_sees_its_own_group_at_the_mount(machine: Machine) -> None:
    (machine.proc / "self/cgroup").write_text("0::/\n")
    (machine.cgroup / "cgroup.controllers").write_text("cpu\n")
    limit_v2(machine.cgroup, "200000 100000")
    assert effective(machine) == 2.0


@pytest.mark.parametrize("path", ["/docker/4f2e", "/../4f2e", "/"])
def test_a_container_whose_path_is_the_host_s_is_found_below_the_mount(machine: Machine, path: str) -> None:
    (machine.proc / "self/cgroup").write_text(f"12:cpuset:/x\n4:cpu,cpuacct:{path}\n0::{path}\n")
    limit_v1(machine.cgroup / "cpu,cpuacct", 25000)
    assert effective(machine) == 0.25


def test_a_nested_version_1_quota_is_found_with_a_hybrid_version_2_beside_it(machine: Machine) -> None:
    (machine.proc / "self/cgroup").write_text("4:cpu:/kubepods/pod1/abc\n0::/kubepods/pod1/abc\n")
    (machine.cgroup / "unified/kubepods/pod1/abc").mkdir(parents=True)
    (machine.cgroup / "unified/cgroup.controllers").write_text("\n")
    limit_v1(machine.cgroup / "cpu", -1)
    limit_v1(machine.cgroup / "cpu/kubepods/pod1", 300000)
    limit_v1(machine.cgroup / "cpu/kubepods/pod1/abc", -1)
    assert effective(machine) == 3.0


def test_a_quota_above_the_affinity_does_not_raise_it(machine: Machine) -> None:
    (machine.proc / "self/cgroup").write_text("4:cpu:/\n")
    limit_v1(machine.cgroup / "cpu", 900000)
    machine.process(11, cpu=0.0, cpus=2)
    assert effective(machine) == 2.0


@pytest.mark.parametrize("text", ["", "garbage\n", "4:cpu\n", "0::/gone/away\n"])
def test_no_cgroup_that_can_be_read_means_no_quota(machine: Machine, text: str) -> None:
    (machine.proc / "self/cgroup").write_text(text)
    assert effective(machine) == 4.0


def test_the_share_of_throttled_periods_is_that_of_the_window(machine: Machine) -> None:
    (machine.proc / "self/cgroup").write_text("0::/worker\n")
    (machine.cgroup / "cgroup.controllers").write_text("cpu\n")
    limit_v2(machine.cgroup / "worker", "50000 100000", periods=1000, throttled=900)
    machine.tick(0)
    limit_v2(machine.cgroup / "worker", "50000 100000", periods=1026, throttled=913)
    assert machine.tick(1).window(10).throttled_ratio == 0.5


def test_a_quota_never_touched_is_not_throttled_and_none_is_unknown(machine: Machine) -> None:
    machine.tick(0)
    assert machine.tick(1).window(10).throttled_ratio is None
    machine.capacity = None
    (machine.proc / "self/cgroup").write_text("0::/worker\n")
    (machine.cgroup / "cgroup.controllers").write_text("cpu\n")
    limit_v2(machine.cgroup / "worker", "50000 100000")
    machine.tick(0)
    assert machine.tick(1).window(10).throttled_ratio == 0.0
