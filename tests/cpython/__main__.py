"""`make test-asyncio`: CPython's own test.test_asyncio without the agent and with it, by each carrier.

Ends with 1 when a test ends otherwise because of the agent, with 0 when none does, or when this interpreter came
without its tests (said in one line). By default the modules that test servers, TLS and child processes, two thirds of
the time, are left out; `--full` runs all.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.cpython import comparison
from tests.cpython.comparison import PLAIN, VARIANTS, Comparison

LONG = ("test_events", "test_sendfile", "test_sock_lowlevel", "test_ssl", "test_sslproto", "test_subprocess")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cpython", description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="for instance test_tasks; default: the short ones")
    parser.add_argument("--full", action="store_true", help="the long modules too")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2), help="processes at a time")
    options = parser.parse_args(arguments)
    reason = comparison.missing()
    if reason:
        print(f"not run: {reason}")
        return 0
    modules: list[str] = options.modules or [name for name in comparison.modules() if options.full or name not in LONG]
    variants, left_out = _variants()
    print(f"Python {platform.python_version()}, {len(modules)} modules of test.test_asyncio{left_out}", flush=True)
    with ThreadPoolExecutor(options.jobs) as threads:
        found = [one for some in threads.map(lambda name: list(_module(name, variants)), modules) for one in some]
    return _tell(found, variants)


def _variants() -> tuple[list[str], str]:
    if comparison.accelerator_missing():
        return [name for name in VARIANTS if name not in (PLAIN, "accelerator")], "; the accelerator is not built"
    return [name for name in VARIANTS if name != PLAIN], ""


def _module(name: str, variants: Sequence[str]) -> Iterator[Comparison]:
    whole = f"test.test_asyncio.{name}"
    plain = comparison.run(PLAIN, [whole])
    for variant in variants:
        one = comparison.compare(whole, variant, plain)
        print(f"{name:<24}{variant:<14}{one.tests:>6} tests{one.steps:>10} steps  {_word(one)}", flush=True)
        yield one


def _word(one: Comparison) -> str:
    return f"{len(one.differences)} differ" if one.differences else "same"


def _tell(found: Sequence[Comparison], variants: Sequence[str]) -> int:
    for one in found:
        for difference in one.differences:
            print(f"\n{one.variant}: {difference}")
    slept = [name for name in variants if not any(one.steps for one in found if one.variant == name)]
    for name in slept:
        print(f"\n{name}: the agent counted no step, so nothing was compared")
    return int(bool(slept) or any(one.differences for one in found))


if __name__ == "__main__":
    sys.exit(main())
