"""Programs run in processes of their own, once by each carrier of the measuring."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import REPOSITORY, clean_environ


@dataclass(frozen=True, slots=True)
class Carrier:
    """Which of them measures, and the environment that asks for it."""

    environ: dict[str, str]

    def run(self, program: str) -> dict[str, Any]:
        """What programs.py's `run` gives."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.accuracy", program],
            cwd=REPOSITORY,
            env=self.environ,
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr.decode()
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture(params=["0", "auto"], ids=["python", "accelerator"])
def carrier(request: pytest.FixtureRequest, tmp_path: Path) -> Carrier:
    asked: str = request.param
    if asked == "auto" and importlib.util.find_spec("taskwatt_fast") is None:
        pytest.skip("the accelerator is not built")
    return Carrier(clean_environ(TASKWATT_ENABLED="1", TASKWATT_DIR=str(tmp_path), TASKWATT_ACCELERATOR=asked))
