"""Other tools that watch event loops, in a virtual environment of their own: their pins and ours exclude each other.

`python -m benchmarks.peers` (`make peers`) makes it and installs each that can be had; of the others it keeps why not.
Nothing else of the project needs them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.processes import REPOSITORY

ENVIRONMENT = Path(os.environ.get("BENCH_PEERS", REPOSITORY / ".venv-peers")).absolute()
PYTHON = ENVIRONMENT / "bin" / "python"
_REASONS = ENVIRONMENT / "not-installed.json"

SERVERS = ("aiohttp", "fastapi", "uvicorn", "uvloop")
"""In the versions of our own environment: only the peer is to differ."""
PACKAGES = {
    "aiodebug": ("aiodebug",),
    "aiocop": ("aiocop",),
    "ddtrace": ("ddtrace",),
    "opentelemetry-asyncio": (
        "opentelemetry-instrumentation-asyncio",
        "opentelemetry-sdk",
        "opentelemetry-exporter-otlp-proto-http",
    ),
    "yappi": ("yappi",),
}


def reason_missing(peer: str) -> str:
    """Why this peer cannot be measured here; empty when it can."""
    if not _REASONS.exists():
        return "its environment is not made: make peers"
    reasons: dict[str, str] = json.loads(_REASONS.read_text())
    return reasons.get(peer, "")


def install() -> dict[str, str]:
    """Make the environment; by name of the peer why it could not be installed."""
    subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    pins = ENVIRONMENT / "constraints.txt"
    ours = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins.write_text("\n".join(line for line in ours if not line.startswith("opentelemetry")) + "\n")
    unusable = _pip(*SERVERS, pins=pins)
    reasons = {
        peer: reason for peer, packages in PACKAGES.items() if (reason := unusable or _pip(*packages, pins=pins))
    }
    _REASONS.write_text(json.dumps(reasons, indent=1) + "\n")
    return reasons


def _pip(*packages: str, pins: Path) -> str:
    """The last line of what pip complained of; empty when it installed them."""
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(pins)]
    done = subprocess.run([*command, *packages], capture_output=True, text=True, timeout=900)
    complaints = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [f"pip: {done.returncode}"]
    return complaints[-1] if done.returncode else ""


if __name__ == "__main__":
    for name, why in install().items():
        print(f"{name} is not measured here: {why}")
