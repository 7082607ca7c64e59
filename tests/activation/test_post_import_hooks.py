"""`when_imported` sees every import and changes nothing about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Environment

SAMPLE = """
import sys
during = (type(__loader__).__name__, type(__spec__.loader).__name__)
"""


@pytest.fixture
def sample(tmp_path: Path) -> str:
    """A folder with the package `sample_library` and, in it, `sample_library.part`."""
    package = tmp_path / "sample_library"
    package.mkdir()
    (package / "__init__.py").write_text(SAMPLE)
    (package / "part.py").write_text("value = 23\n")
    (package / "data.txt").write_text("some data")
    (package / "broken.py").write_text("import os\nif not os.environ.pop('MENDED', None): raise ValueError('broken')\n")
    return str(tmp_path)


def test_a_module_that_is_imported_later_calls_back_once(environment: Environment, sample: str) -> None:
    code = """
    from taskwatt._imports import when_imported
    seen = []
    when_imported("sample_library.part", lambda module: seen.append(module.value))
    import sample_library
    assert seen == []
    import sample_library.part, importlib
    importlib.reload(sample_library.part)
    print(seen)
    """
    assert environment.prints(code, PYTHONPATH=sample) == "[23]"


def test_a_module_that_is_imported_already_calls_back_at_once(environment: Environment, sample: str) -> None:
    code = """
    import sample_library.part
    from taskwatt._imports import when_imported
    seen = []
    when_imported("sample_library.part", lambda module: seen.append(module.value))
    print(seen)
    """
    assert environment.prints(code, PYTHONPATH=sample) == "[23]"


def test_the_callback_gets_the_module_that_celery_puts_in_its_own_place(environment: Environment) -> None:
    code = """
    import sys
    from taskwatt._imports import when_imported
    seen = []
    when_imported("celery", seen.append)
    import celery
    print(len(seen), seen[0] is celery is sys.modules["celery"], type(celery).__name__, celery.Celery.__name__)
    """
    assert environment.prints(code) == "1 True celery Celery"


def test_loaders_are_what_they_would_be_during_the_import_and_after_it(environment: Environment, sample: str) -> None:
    code = """
    import importlib, inspect, pkgutil
    {hook}
    import sample_library
    loader = sample_library.__loader__
    print(
        sample_library.during, type(loader).__name__, sample_library.__spec__.loader is loader,
        pkgutil.get_data("sample_library", "data.txt"), inspect.getsource(sample_library) != "",
        importlib.reload(sample_library) is sample_library, type(sample_library.__loader__).__name__,
    )
    """
    hook = "from taskwatt import _imports; _imports.when_imported('sample_library', lambda module: None)"
    with_hook = environment.prints(code.replace("{hook}", hook), PYTHONPATH=sample)
    assert with_hook == environment.prints(code.replace("{hook}", ""), PYTHONPATH=sample)


@pytest.mark.parametrize("order", ["ours(); theirs()", "theirs(); ours()"])
def test_the_hooks_of_wrapt_and_ours_both_fire_in_either_order(
    environment: Environment, sample: str, order: str
) -> None:
    code = f"""
    import wrapt
    from taskwatt._imports import when_imported
    seen = []
    def ours(): when_imported("sample_library", lambda module: seen.append("ours"))
    def theirs(): wrapt.register_post_import_hook(lambda module: seen.append("theirs"), "sample_library")
    {order}
    import sample_library
    print(sorted(seen), type(sample_library.__spec__.loader).__name__)
    """
    assert environment.prints(code, PYTHONPATH=sample) == "['ours', 'theirs'] SourceFileLoader"


def test_a_module_that_another_finder_took_first_calls_back_at_the_next_import(
    environment: Environment, sample: str
) -> None:
    code = """
    import sys
    from importlib.machinery import PathFinder
    from taskwatt._imports import when_imported
    seen = []
    when_imported("sample_library", lambda module: seen.append("fired"))
    sys.meta_path.insert(0, PathFinder)
    import sample_library
    assert sys.meta_path.pop(0) is PathFinder
    import sample_library.part
    print(seen)
    """
    assert environment.prints(code, PYTHONPATH=sample) == "['fired']"


def test_an_import_that_fails_fails_as_before_and_is_still_awaited(environment: Environment, sample: str) -> None:
    code = """
    import os
    from taskwatt._imports import when_imported
    seen = []
    when_imported("sample_library.broken", lambda module: seen.append("fired"))
    try:
        import sample_library.broken
    except ValueError as error:
        seen.append(str(error))
    os.environ["MENDED"] = "1"
    import sample_library.broken
    print(seen)
    """
    assert environment.prints(code, PYTHONPATH=sample) == "['broken', 'fired']"


def test_a_callback_that_raises_is_logged_once_and_the_import_goes_on(environment: Environment, sample: str) -> None:
    code = """
    from taskwatt._imports import when_imported
    when_imported("sample_library", lambda module: 1 / 0)
    when_imported("sample_library", lambda module: print("the next one"))
    import sample_library
    """
    done = environment.run(code, PYTHONPATH=sample)
    assert (done.returncode, done.stdout.strip()) == (0, "the next one")
    assert done.stderr.count("ZeroDivisionError") == 1


def test_a_forgotten_callback_is_not_called(environment: Environment, sample: str) -> None:
    code = """
    from taskwatt._imports import forget, when_imported
    when_imported("sample_library", print)
    forget(print)
    import sample_library
    """
    assert environment.prints(code, PYTHONPATH=sample) == ""


def test_uninstall_leaves_meta_path_as_it_was(environment: Environment) -> None:
    code = """
    import sys
    before = list(sys.meta_path)
    from taskwatt import _imports
    _imports.when_imported("sample_library", print)
    between = len(sys.meta_path) - len(before)
    _imports.uninstall()
    print(between, sys.meta_path == before)
    """
    assert environment.prints(code) == "1 True"
