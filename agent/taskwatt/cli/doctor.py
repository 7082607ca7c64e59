"""`taskwatt doctor`: is the agent itself well? Exit codes: 0 well, 1 not.

It looks from where it is run: start it with the interpreter, the user and the environment of the processes to be
watched.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import socket
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib.metadata import entry_points, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import taskwatt
from taskwatt._integrations import GROUP
from taskwatt.segments.directory import candidates
from taskwatt.segments.layout import SIZE
from taskwatt.settings import Settings

CONNECT_S = 2.0
HTTP_PORT, GRPC_PORT = 4318, 4317
ENDPOINTS = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)


class Line(NamedTuple):
    """One thing looked at. `well` is None for a plain fact."""

    well: bool | None
    text: str


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Check the agent itself: settings, start-up file, integrations, directory, endpoint."
    parser.epilog = "Exit status: 0 all is well, 1 something is not."


def main(args: argparse.Namespace) -> int:  # noqa: ARG001  # every command has it
    lines = list(examine(os.environ))
    for line in lines:
        print({None: "      ", True: "ok    ", False: "WRONG "}[line.well] + line.text)
    return 1 if any(line.well is False for line in lines) else 0


def examine(environ: Mapping[str, str]) -> Iterator[Line]:
    """Everything worth a line, settings first."""
    yield Line(None, f"taskwatt {taskwatt.__version__}, Python {sys.version.split()[0]} at {sys.executable}")
    settings, complaints = _settings(environ)
    yield from (Line(False, complaint) for complaint in complaints)
    for field in fields(settings):
        yield Line(None, f"{field.name} = {_shown(getattr(settings, field.name))}")
    yield _switch(settings)
    yield _start_up_file()
    yield from _integrations()
    yield _directory(settings)
    yield from _endpoints(environ)


def _settings(environ: Mapping[str, str]) -> tuple[Settings, list[str]]:
    complaints: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: complaints.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("taskwatt")
    propagate, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        return Settings.from_environ(environ), complaints
    finally:
        log.removeHandler(handler)
        log.propagate = propagate


def _shown(value: object) -> object:
    return "(unset)" if value is None or value == () else value


def _switch(settings: Settings) -> Line:
    if settings.enabled:
        return Line(True, "the agent is switched on in this environment")
    return Line(None, "the agent is switched off in this environment; TASKWATT_ENABLED=1 switches it on")


def _start_up_file() -> Line:
    name = "taskwatt_autostart.start" if sys.version_info >= (3, 15) else "taskwatt_autostart.pth"
    if sys.flags.no_site:
        return Line(False, f"{name} is not read: this interpreter runs with -S")
    found = [path for path in (Path(entry, name) for entry in sys.path if entry) if path.is_file()]
    if not found:
        return Line(False, f"{name} is on no site directory of this interpreter: install the package, do not copy it")
    return Line(True, f"start-up file {found[0]}")


def _integrations() -> Iterator[Line]:
    """An entry point is named after the module it waits for. Its first part says whose that is, and is not imported."""
    distributions = packages_distributions()
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        package = point.name.partition(".")[0]
        owners = set(distributions.get(package, ()))
        if len(owners) == 1:
            owner = owners.pop()
            yield Line(True, f"integration {point.value} for {owner} {version(owner)}")
        elif find_spec(package) is not None:
            yield Line(True, f"integration {point.value} for {point.name}")
        else:
            yield Line(None, f"integration {point.value} waits for {package}, which is not installed here")


def _directory(settings: Settings) -> Line:
    path = candidates(settings.directory)[0]
    try:
        found = path.lstat()
    except FileNotFoundError:
        return _room(path, f"directory {path} will be made by the first process that is watched")
    except OSError as error:
        return Line(False, f"directory {path}: {error.strerror}")
    mode = stat.S_IMODE(found.st_mode)
    text = f"directory {path}, owner {found.st_uid}, mode {mode:o}"
    if not stat.S_ISDIR(found.st_mode):
        return Line(False, f"{path} is not a directory")
    if found.st_uid != os.getuid():
        return Line(False, f"{text}: it belongs to somebody else, and would not be used by user {os.getuid()}")
    if mode & 0o077:
        return Line(False, f"{text}: it is open to others, and would not be used; make it 700")
    return _room(path, text)


def _room(path: Path, text: str) -> Line:
    """Is there room for a segment in `path`, or in the nearest folder above it that exists?"""
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    text = f"{text}; {free / 1e6:.0f} MB free"
    if free < SIZE:
        return Line(False, f"{text}: one process needs {SIZE / 1e6:.1f} MB")
    if not os.access(existing, os.W_OK | os.X_OK):
        return Line(False, f"{text}: {existing} cannot be written")
    return Line(True, text)


def _endpoints(environ: Mapping[str, str]) -> Iterator[Line]:
    configured = [name for name in ENDPOINTS if environ.get(name, "").strip()]
    if not configured:
        yield Line(None, "no OTLP endpoint is set: nothing leaves this machine")
    for name in configured:
        yield _endpoint(name, environ[name].strip(), environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", ""))


def _endpoint(name: str, url: str, protocol: str) -> Line:
    """A connection is opened and closed again; nothing is sent."""
    default = GRPC_PORT if protocol.strip() == "grpc" else HTTP_PORT
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        host, port = parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme, default)
    except ValueError as error:
        return Line(False, f"{name} is not a URL: {error}")
    if not host:
        return Line(False, f"{name}={url} names no host")
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError as error:
        return Line(False, f"{name}: {host}:{port} cannot be reached: {error.strerror or error}")
    return Line(True, f"{name}: {host}:{port} can be reached")
