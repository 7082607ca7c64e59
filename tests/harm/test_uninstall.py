"""`pip uninstall` takes away all that the installation brought: start-up files, commands, packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.activation.conftest import Environment, make_environment
from tests.support.processes import REPOSITORY


@pytest.mark.parametrize("editable", [False, True], ids=["wheel", "editable"])
def test_an_uninstall_leaves_nothing_behind(tmp_path: Path, editable: bool) -> None:
    environment = make_environment(tmp_path / "venv")
    before = contents(environment)
    options = ["--editable"] if editable else []
    environment.pip("install", "--quiet", "--no-deps", "--no-build-isolation", *options, str(REPOSITORY))
    assert environment.prints("import taskwatt") == ""
    brought = contents(environment) - before
    assert {"bin/taskwatt", "taskwatt_autostart.pth"} <= {name.rpartition("site-packages/")[2] for name in brought}
    environment.pip("uninstall", "--quiet", "--yes", "taskwatt")
    assert contents(environment) - before == set()
    done = environment.run("import sys; print(sorted(n for n in sys.modules if 'taskwatt' in n))", TASKWATT_ENABLED="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def contents(environment: Environment) -> set[str]:
    """Every file and folder of the environment, compiled files of other packages aside."""
    found = (path for path in environment.root.rglob("*") if path.name != "__pycache__" and path.suffix != ".pyc")
    return {str(path.relative_to(environment.root)) for path in found}
