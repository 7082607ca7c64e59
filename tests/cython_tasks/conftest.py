"""A module compiled by Cython. Without a compiler its tests are skipped, but not in CI, where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.carriers import carrier

__all__ = ["carrier"]

SOURCE = Path(__file__).with_name("shop.pyx")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the module `shop`."""
    compiler = shutil.which(os.environ.get("CC") or "gcc") or shutil.which("cc")
    headers = sysconfig.get_path("include")
    missing = [
        what
        for what, found in {
            "Cython": find_spec("Cython"),
            "a C compiler": compiler,
            "Python.h": Path(headers, "Python.h").exists(),
        }.items()
        if not found
    ]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"not here: {', '.join(missing)}")
    assert missing == []
    assert compiler is not None
    folder = tmp_path_factory.mktemp("compiled")
    module = folder / f"shop{sysconfig.get_config_var('EXT_SUFFIX')}"
    written = folder / "shop.c"
    for command in (
        [sys.executable, "-m", "cython", str(SOURCE), "-o", str(written)],
        [compiler, "-shared", "-fPIC", "-O1", "-w", f"-I{headers}", str(written), "-o", str(module)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    return folder
