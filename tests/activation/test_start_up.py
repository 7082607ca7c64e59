"""What an interpreter does at its start, with the variable and without."""

from __future__ import annotations

import pytest

from .conftest import Environment

LOADED = "import sys; print(sorted(name for name in sys.modules if name.split('.')[0].startswith('taskwatt')))"
FINDERS = "import sys; print([type(finder).__module__ for finder in sys.meta_path].count('taskwatt._imports'))"


def test_without_the_variable_nothing_of_taskwatt_is_imported(environment: Environment) -> None:
    assert environment.prints(LOADED) == "[]"


@pytest.mark.parametrize("word", ["1", "true", "YES", "On"])
def test_with_the_variable_one_finder_is_installed(environment: Environment, word: str) -> None:
    assert environment.prints(FINDERS, TASKWATT_ENABLED=word) == "1"


@pytest.mark.parametrize("word", ["", "0", "false", "No", "OFF"])
def test_a_word_for_no_installs_nothing(environment: Environment, word: str) -> None:
    assert environment.prints(FINDERS, TASKWATT_ENABLED=word) == "0"


@pytest.mark.parametrize("flags", [("-I",), ("-E",), ("-s",), ("-I", "-X", "dev")])
def test_isolated_interpreters_are_switched_on_too(environment: Environment, flags: tuple[str, ...]) -> None:
    assert environment.prints(FINDERS, flags=flags, TASKWATT_ENABLED="1") == "1"


def test_switched_on_costs_no_import_of_logging_typing_or_opentelemetry(environment: Environment) -> None:
    dear = {"logging", "typing", "threading", "opentelemetry", "importlib.metadata"}
    code = f"import sys; print(sys.modules.keys() & {dear})"
    assert environment.prints(code, flags=("-S",)) == "set()"
    assert environment.prints(code, flags=("-I",), TASKWATT_ENABLED="1") == environment.prints(code, flags=("-I",))


def test_a_word_that_makes_no_sense_is_named_in_one_line_and_leaves_the_agent_off(environment: Environment) -> None:
    done = environment.run(FINDERS, TASKWATT_ENABLED="perhaps")
    assert (done.returncode, done.stdout.strip()) == (0, "0")
    assert done.stderr.splitlines() == [
        "TASKWATT_ENABLED='perhaps' is not one of 1, true, yes, on, 0, false, no, off; the default (False) is used"
    ]


def test_a_package_that_is_gone_disturbs_no_interpreter(environment: Environment) -> None:
    code = """
    import sys
    sys.modules["taskwatt"] = None
    import site
    site.addsitedir(sys.argv[1])
    """
    code = code.replace("sys.argv[1]", repr(str(environment.site_packages)))
    done = environment.run(code, flags=("-S",), TASKWATT_ENABLED="1")
    assert (done.returncode, done.stderr) == (0, "")


def test_it_stays_out_of_subinterpreters(environment: Environment) -> None:
    code = """
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    inner = '''
    import os, sys
    from taskwatt._autostart import main
    main()
    finders = [type(finder).__module__ for finder in sys.meta_path]
    os.write(1, b"in" if "taskwatt._imports" in finders else b"out")
    '''
    import textwrap
    interpreters.run_string(interpreters.create(), textwrap.dedent(inner))
    """
    assert environment.prints(code, TASKWATT_ENABLED="1") == "out"
