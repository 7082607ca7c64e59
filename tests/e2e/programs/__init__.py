"""The real programs that `make e2e` talks to, built from pinned Go modules into a cache.

    python -m tests.e2e.programs      # build what is not there yet, and say so

Each folder here is a Go module of ours that names another program's module in its version, with the checksum of every
module below it: nothing is fetched but through Go's module proxy, and nothing but what is written down.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

HERE: Final = Path(__file__).parent


class Program(NamedTuple):
    name: str
    module: str
    """Folder of the module that builds it."""
    package: str
    options: tuple[str, ...] = ()


PROMETHEUS_OPTIONS: Final = ("-tags", "remove_all_sd")
"""Without the clients of thirty clouds, which are most of its compile time."""

PROGRAMS: Final = {
    one.name: one
    for one in (
        Program("otelcol", "collector", "."),
        Program("jaeger", "jaeger", "github.com/jaegertracing/jaeger/cmd/jaeger"),
        Program(
            "prometheus", "prometheus", "github.com/prometheus/prometheus/cmd/prometheus", PROMETHEUS_OPTIONS
        ),
        Program("promtool", "prometheus", "github.com/prometheus/prometheus/cmd/promtool", PROMETHEUS_OPTIONS),
    )
}  # fmt: skip


def go() -> str | None:
    return shutil.which("go")


def path_of(name: str) -> Path:
    """Where a program is, or will be: what it is made of is in its folder's name."""
    program = PROGRAMS[name]
    digest = hashlib.sha256(repr(program).encode())
    for source in sorted((HERE / program.module).iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "taskwatt" / "programs" / f"{program.module}-{digest.hexdigest()[:16]}" / name


def build(name: str) -> Path:
    """Raises CalledProcessError with what Go said. Builds that run side by side do not meet half a program."""
    target, program = path_of(name), PROGRAMS[name]
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / name
        command = [go() or "go", "build", "-mod=readonly", "-buildvcs=false", "-trimpath", *program.options]
        subprocess.run([*command, "-o", str(made), program.package], cwd=HERE / program.module, check=True)
        made.replace(target)
    return target


def main() -> int:
    if go() is None:
        print("Go is not installed: the programs cannot be built, and the end-to-end tests will say so")
        return 0
    for name in PROGRAMS:
        if path_of(name).exists():
            continue
        print(f"building {name}, once; this takes minutes ...", flush=True)
        began = time.monotonic()
        try:
            build(name)
        except subprocess.CalledProcessError as error:
            print(f"{name} could not be built: {error}", file=sys.stderr)
            return 1
        print(f"built {name} in {time.monotonic() - began:.0f} s", flush=True)
    return 0
