"""Which line of a stack is shown: the innermost one that the user can change."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig

import pytest

from taskwatt import code_site
from taskwatt.code_site import Line, choose, is_user_code

SITE = sysconfig.get_paths()["purelib"]
STDLIB = sysconfig.get_paths()["stdlib"]

USER = Line("charge", "/srv/shop/tasks.py", 12)
HELPER = Line("fetch", "/srv/shop/net.py", 7)
URLLIB3 = Line("urlopen", f"{SITE}/urllib3/connectionpool.py", 700)
SOCKET = Line("create_connection", f"{STDLIB}/socket.py", 800)
TRACE = Line("trace_task", f"{SITE}/celery/app/trace.py", 500)
HOOK = Line("body", f"{SITE}/taskwatt_celery/attempt.py", 400)
BILLIARD = Line("workloop", f"{SITE}/billiard/pool.py", 300)
RETRY = Line("Task.retry", f"{SITE}/celery/app/task.py", 700)
PUBLISH = Line("Producer.publish", f"{SITE}/kombu/messaging.py", 180)
REDIS = Line("Redis.execute_command", f"{SITE}/redis/client.py", 600)
PACKAGED = Line("charge", f"{SITE}/shop/tasks.py", 12)
WORKER = (TRACE, BILLIARD, Line("<module>", sysconfig.get_paths()["scripts"] + "/celery", 8))


@pytest.mark.parametrize(
    ("stack", "chosen"),
    [
        ((USER, HOOK, *WORKER), USER),
        ((HELPER, USER, HOOK, *WORKER), HELPER),
        ((SOCKET, URLLIB3, USER, HOOK, *WORKER), USER),
        ((REDIS, PUBLISH, RETRY, USER, HOOK, *WORKER), USER),
        ((SOCKET, URLLIB3, PACKAGED, HOOK, *WORKER), PACKAGED),
        ((REDIS, PUBLISH, RETRY, PACKAGED, HOOK, *WORKER), PACKAGED),
        ((PACKAGED, *WORKER), PACKAGED),
        ((Line("JSONEncoder.encode", f"{STDLIB}/json/encoder.py", 200), PUBLISH, *WORKER), ("JSONEncoder.encode", 200)),
        ((TRACE, BILLIARD), TRACE),
    ],
)
def test_the_line_shown_is_the_nearest_that_the_user_can_change(
    stack: tuple[Line, ...], chosen: Line | tuple[str, int]
) -> None:
    line = choose(stack)
    assert line is not None
    assert (line if isinstance(chosen, Line) else (line.function, line.line)) == chosen


def test_an_empty_stack_has_no_line() -> None:
    assert choose(()) is None


@pytest.mark.parametrize(
    ("file", "user"),
    [
        ("/srv/shop/tasks.py", True),
        ("/home/me/taskwatt/examples/app.py", True),
        ("/usr/local/shop/tasks.py", True),
        ("/usr/lib/python3/dist-packages/shop/tasks.py", False),
        (json.__file__, False),
        ("<string>", False),
        ("<frozen importlib._bootstrap>", False),
        (code_site.__file__, False),
        (f"{SITE}/taskwatt/code_site.py", False),
        (f"{SITE}/taskwatt_celery/demo/app.py", True),
        (f"{SITE}/taskwatt_celery/attempt.py", False),
    ],
)
def test_user_code_is_what_is_neither_installed_nor_the_library_s(file: str, user: bool) -> None:
    assert is_user_code(file) is user


def test_the_library_s_folders_are_those_that_sysconfig_knows_without_loading_what_it_loads() -> None:
    names = ("stdlib", "platstdlib", "scripts")
    program = f"""
import sys
from taskwatt import code_site
found = [code_site._folder(name) for name in {names}]
print([name for name in sys.modules if name.startswith("_sysconfigdata")])
import sysconfig
print(found == [sysconfig.get_path(name) for name in {names}])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\nTrue\n"
