"""What the wheel holds, and what is left after it was uninstalled."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

from .conftest import Environment, make_environment


def test_the_wheel_holds_the_start_up_files_at_its_root(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        start = archive.read("taskwatt_autostart.start").decode()
    roots = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert {name for name in roots if not name.startswith("taskwatt_") or "autostart" in name} == {
        "taskwatt",
        "taskwatt_autostart.pth",
        "taskwatt_autostart.start",
    }
    assert {"taskwatt_celery/__init__.py", "taskwatt/py.typed", "taskwatt/rules/__init__.py"} <= set(names)
    assert start == "taskwatt._autostart:main\n"


def test_an_uninstall_leaves_no_file_behind(wheel: Path, tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "venv")
    before = _files(environment)
    environment.pip("install", "--quiet", "--no-deps", "--no-index", str(wheel))
    assert (
        environment.prints("import celery, sys; print('taskwatt_celery' in sys.modules)", TASKWATT_ENABLED="1")
        == "True"
    )
    environment.pip("uninstall", "--quiet", "--yes", "taskwatt")
    assert _files(environment) == before
    assert environment.prints("print('still fine')", TASKWATT_ENABLED="1") == "still fine"


def _files(environment: Environment) -> set[Path]:
    return {path for path in environment.root.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
