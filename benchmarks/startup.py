"""What an interpreter's start costs more because the agent is installed: variable unset, and set.

Fresh interpreters, timed from inside: `site` reads a folder that holds our start-up file (or a folder that holds
nothing), then the first module from outside of the standard library is looked for, which is when a switched-on agent
looks for integrations. Bytecode is cached, as in an installed package.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from benchmarks.results import Row
from benchmarks.statistics import Groups, combined
from tests.support.processes import REPOSITORY, clean_environ

UNSET_BUDGET_MS, SET_BUDGET_MS = 0.2, 2.0
_BLOCK = 10

_CODE = """
import os, site, sys, time
folder, *paths = sys.argv[1:]
sys.path += paths
wall, cpu = time.perf_counter_ns(), time.process_time_ns()
site.addsitedir(folder)
try:
    import a_module_that_nobody_has
except ImportError:
    pass
print([time.perf_counter_ns() - wall, time.process_time_ns() - cpu])
"""


def measure(rounds: int) -> list[Row]:
    """`rounds` alternations of the three; medians of blocks of ten make the interval."""
    with tempfile.TemporaryDirectory(prefix="taskwatt-bench-") as temporary:
        nothing, installed = Path(temporary, "nothing"), Path(temporary, "installed")
        nothing.mkdir()
        installed.mkdir()
        shutil.copy(REPOSITORY / "agent" / "taskwatt_autostart.pth", installed)
        ways = {"none": (nothing, {}), "unset": (installed, {}), "set": (installed, {"TASKWATT_ENABLED": "1"})}
        taken: dict[str, list[list[int]]] = {way: [] for way in ways}
        for _ in range(rounds + 3):
            for way, (folder, variables) in ways.items():
                taken[way].append(_once(folder, variables, temporary))
    rows: list[Row] = []
    for place, clock in enumerate(("wall", "CPU")):
        groups = {way: _blocks([values[place] / 1e6 for values in all_[3:]]) for way, all_ in taken.items()}
        for way, budget in (("unset", UNSET_BUDGET_MS), ("set", SET_BUDGET_MS)):
            extra = combined(lambda medians: medians[0] - medians[1], groups[way], groups["none"])
            rows.append(Row("startup", f"variable {way} - not installed, {clock}", extra, "ms", rounds, budget))
    return rows


def _once(folder: Path, variables: dict[str, str], cache: str) -> list[int]:
    environ = clean_environ(PYTHONPYCACHEPREFIX=cache, **variables)
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    paths = [str(REPOSITORY / "agent"), sysconfig.get_path("purelib")]
    done = subprocess.run(
        [sys.executable, "-S", "-c", _CODE, str(folder), *paths],
        env=environ,
        capture_output=True,
        check=True,
        timeout=60,
    )
    found: list[int] = json.loads(done.stdout)
    return found


def _blocks(values: list[float]) -> Groups:
    return [values[at : at + _BLOCK] for at in range(0, len(values), _BLOCK)]
