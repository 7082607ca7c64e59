"""Integrations are found by entry point, wherever they come from, and installed when their library was imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Environment

INSTALLED = (
    "import sys; from taskwatt import _integrations; print(sorted(module for _, module in _integrations._installed))"
)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """An installed distribution of somebody else's: a library, and an integration for it."""
    metadata = tmp_path / "their_integration-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-integration\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[console_scripts]\nother = their_library:main\n\n[taskwatt.integrations]\ntheir_library = their_integration\n"
    )
    (tmp_path / "their_library.py").write_text("name = 'library'\n")
    (tmp_path / "their_integration.py").write_text(
        "import their_library\n"
        "def install(): print('install', their_library.name)\n"
        "def uninstall(): print('uninstall')\n"
    )
    return tmp_path


def test_the_integration_of_celery_is_installed_when_celery_is_imported(environment: Environment) -> None:
    code = f"""
    import sys
    import json, psutil
    assert "taskwatt_celery" not in sys.modules
    import celery
    {INSTALLED}
    """
    installed = environment.prints(code, TASKWATT_ENABLED="1")
    assert installed == "['taskwatt.export.span_cpu', 'taskwatt_asyncio', 'taskwatt_celery']"


def test_the_integration_of_an_outside_package_is_an_equal(environment: Environment, outside: Path) -> None:
    code = "import their_library; print('imported')"
    found = environment.prints(code, TASKWATT_ENABLED="1", PYTHONPATH=str(outside))
    assert found == "install library\nimported"


def test_a_path_that_is_added_later_is_looked_at_too(environment: Environment, outside: Path) -> None:
    code = f"import psutil, sys; sys.path.append({str(outside)!r}); import their_library"
    assert environment.prints(code, TASKWATT_ENABLED="1") == "install library"


def test_instrument_installs_at_once_and_only_once(environment: Environment, outside: Path) -> None:
    code = """
    import their_library, taskwatt
    taskwatt.instrument()
    taskwatt.instrument()
    """
    assert environment.prints(code, PYTHONPATH=str(outside)) == "install library"


def test_uninstrument_takes_everything_back_and_instrument_works_again(environment: Environment, outside: Path) -> None:
    code = """
    import sys, logging
    before = list(sys.meta_path)
    import their_library, taskwatt
    taskwatt.instrument()
    taskwatt.uninstrument()
    print(sys.meta_path == before, logging.getLogger("taskwatt").level)
    taskwatt.instrument()
    """
    found = environment.prints(code, PYTHONPATH=str(outside), TASKWATT_LOG_LEVEL="error")
    assert found.splitlines() == ["install library", "uninstall", "True 0", "install library"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise ImportError('too old')", "taskwatt's integration their_integration cannot be imported and is off"),
        (
            "def install(): raise RuntimeError('odd version')\ndef uninstall(): print('cleaned up')",
            "taskwatt's integration their_integration failed to install and is off",
        ),
    ],
)
def test_an_integration_that_fails_is_off_says_so_once_and_the_library_works(
    environment: Environment, outside: Path, source: str, said: str
) -> None:
    (outside / "their_integration.py").write_text(source)
    done = environment.run("import their_library; print('imported')", TASKWATT_ENABLED="1", PYTHONPATH=str(outside))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "imported")
    assert done.stderr.count(said) == 1


def test_a_setting_that_makes_no_sense_is_named_when_it_is_used_and_not_while_the_library_is_imported(
    environment: Environment, outside: Path
) -> None:
    """The application sets up its logging after its imports: a line before that would not reach its log."""
    code = "import their_library, os; from taskwatt.settings import Settings; print(Settings.from_environ(os.environ))"
    bad = {"TASKWATT_STALL_THRESHOLD": "soon", "TASKWATT_LOG_LEVEL": "loud"}
    imported = environment.run("import their_library", TASKWATT_ENABLED="1", PYTHONPATH=str(outside), **bad)
    assert (imported.stdout.strip(), imported.stderr) == ("install library", "")
    used = environment.run(code, TASKWATT_ENABLED="1", PYTHONPATH=str(outside), **bad)
    assert used.stderr.splitlines() == [
        "TASKWATT_LOG_LEVEL='loud' is not one of DEBUG, INFO, WARNING, ERROR, CRITICAL; the default (unset) is used",
        "TASKWATT_STALL_THRESHOLD='soon' is not a number of seconds above 0; the default (0.1) is used",
    ]


def test_opentelemetry_instrument_switches_it_on(environment: Environment, outside: Path) -> None:
    code = """
    from importlib.metadata import entry_points
    (point,) = entry_points(group="opentelemetry_instrumentor", name="taskwatt")
    import their_library
    instrumentor = point.load()()
    instrumentor.instrument()
    instrumentor.uninstrument()
    """
    assert environment.prints(code, PYTHONPATH=str(outside)) == "install library\nuninstall"
    without = "import sys; sys.modules['opentelemetry.instrumentation.instrumentor'] = None\n"
    code = (
        without + "import their_library; from taskwatt.instrumentor import TaskwattInstrumentor as T; T().instrument()"
    )
    assert environment.prints(code, PYTHONPATH=str(outside)) == "install library"
