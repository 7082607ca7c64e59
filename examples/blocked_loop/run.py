"""Starts the service and clients for it, shows the diagnosis, and stops both.

    python examples/blocked_loop/run.py

Needs `taskwatt`, `fastapi`, `uvicorn` and `uvloop`; everything stays on 127.0.0.1.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

sys.path.insert(0, str(Path(__file__).parents[1]))

from showing import diagnose, say, watched

LASTS_S = 20.0
PATHS = ("/health", "/orders/7", "/orders/11", "/report", "/health", "/orders/13")


def main() -> int:
    port = free_port()
    command = ["-m", "uvicorn", "app:app", "--loop", "uvloop", "--port", str(port), "--log-level", "warning"]
    say(f"service  TASKWATT_ENABLED=1 python {' '.join(command)}")
    with watched(command, Path(__file__).parent) as directory:
        say(f"traffic  4 clients, for {LASTS_S:.0f} s")
        until = time.monotonic() + LASTS_S
        clients = [threading.Thread(target=ask, args=(port, until)) for _ in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        return diagnose(directory, "loop_blocked")


def ask(port: int, until: float) -> None:
    """One client; what does not answer yet is asked again."""
    while time.monotonic() < until:
        for path in PATHS:
            with suppress(OSError), urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                answer.read()
            time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
