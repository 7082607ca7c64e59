"""A real virtual environment with the package installed from this repository, and interpreters started in it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import textwrap
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Environment:
    root: Path

    @property
    def python(self) -> str:
        return str(self.root / "bin" / "python")

    @property
    def site_packages(self) -> Path:
        return next((self.root / "lib").glob("python*/site-packages"))

    def pip(self, *arguments: str) -> None:
        pip = [sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check", "--no-input"]
        subprocess.run([*pip, *arguments], check=True, capture_output=True, env=clean_environ())

    def run(self, code: str, *, flags: Sequence[str] = (), **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `code` in a fresh interpreter; its exit code is left to the caller."""
        return subprocess.run(
            [self.python, *flags, "-c", textwrap.dedent(code)],
            env=clean_environ() | variables,
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )

    def prints(self, code: str, *, flags: Sequence[str] = (), **variables: str) -> str:
        """What `code` prints; fails the test when it says anything on stderr or exits with an error."""
        done = self.run(code, flags=flags, **variables)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()


def clean_environ() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TASKWATT_", "OTEL_")) and name != "PYTHONPATH"
    }


def make_environment(root: Path) -> Environment:
    """An empty environment that sees the libraries of the one that runs the tests, but none of its start-up files."""
    venv.create(root, with_pip=False, symlinks=True)
    environment = Environment(root)
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (environment.site_packages / "aaa_libraries.pth").write_text("\n".join(sorted(libraries)) + "\n")
    return environment


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The package in an editable install."""
    environment = make_environment(tmp_path_factory.mktemp("editable") / "venv")
    environment.pip("install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(REPOSITORY))
    return environment


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            folder,
            REPOSITORY,
        ],
        check=True,
        capture_output=True,
        env=clean_environ(),
    )
    return next(folder.glob("taskwatt-*.whl"))
