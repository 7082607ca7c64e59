"""Starts the client and its server in one process, shows the diagnosis, and stops it.

    python examples/polling_client/run.py

Needs `taskwatt` and `aiohttp`; everything stays on 127.0.0.1.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from showing import diagnose, say, watched

LASTS_S = 20.0


def main() -> int:
    command = ["app.py", str(LASTS_S + 10)]
    say(f"client   TASKWATT_ENABLED=1 python {' '.join(command)}")
    with watched(command, Path(__file__).parent) as directory:
        say(f"waiting  {LASTS_S:.0f} s")
        time.sleep(LASTS_S)
        return diagnose(directory, "polling")


if __name__ == "__main__":
    sys.exit(main())
