"""Which exporters the standard OTEL_* variables ask for, made without setting anything global.

No endpoint and no exporter named: nothing leaves the machine.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader
from opentelemetry.sdk.resources import Attributes, Resource
from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger("taskwatt")

_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_SUPPRESS: Final = "suppress_instrumentation"


def wanted(signal: str, environ: Mapping[str, str]) -> list[str]:
    """Exporter names for `signal` (TRACES or METRICS); empty when nothing is configured or the SDK is disabled."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    named = environ.get(f"OTEL_{signal}_EXPORTER", "").strip()
    if named:
        return [name.strip() for name in named.split(",") if name.strip() and name.strip() != "none"]
    return ["otlp"] if environ.get(_ENDPOINT) or environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") else []


def span_exporters(environ: Mapping[str, str]) -> list[SpanExporter]:
    """One exporter for each name that can be made; the others are named in the log."""
    return [one for name in wanted("TRACES", environ) if (one := _make("traces", name, environ)) is not None]


def metric_exporters(environ: Mapping[str, str]) -> list[MetricExporter | MetricReader]:
    """As above. Pull exporters (Prometheus) are readers already, and serve from this process."""
    return [one for name in wanted("METRICS", environ) if (one := _make("metrics", name, environ)) is not None]


def resource(defaults: Mapping[str, str]) -> Resource:
    """The standard resource, with `defaults` for what the environment does not say."""
    found = Resource.create()
    missing = {
        key: value
        for key, value in defaults.items()
        if not found.attributes.get(key) or str(found.attributes[key]).startswith("unknown_service")
    }
    if "service.instance.id" in defaults and "service.instance.id=" not in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        missing["service.instance.id"] = defaults["service.instance.id"]
    merged = found.merge(Resource(missing))
    return _HashedOnce(merged.attributes, merged.schema_url)


class _HashedOnce(Resource):
    """The SDK's encoder groups spans by resource, and a Resource writes itself as JSON whenever it is hashed: at each
    span, a fifth of an export's CPU."""

    def __init__(self, attributes: Attributes, schema_url: str) -> None:
        super().__init__(attributes, schema_url)
        self._hash_once = super().__hash__()

    def __hash__(self) -> int:
        return self._hash_once

    def __eq__(self, other: object) -> bool:
        return self is other or super().__eq__(other)


def _make(signal: str, name: str, environ: Mapping[str, str]) -> Any:
    if name == "otlp":
        protocol = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL") or environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
        )
        name = "otlp_proto_grpc" if protocol.strip() == "grpc" else "otlp_proto_http"
    try:
        found = list(entry_points(group=f"opentelemetry_{signal}_exporter", name=name))
        if not found:
            log.warning("taskwatt cannot export %s to %r: no such exporter is installed", signal, name)
            return None
        return found[0].load()()
    except Exception as error:
        log.warning("taskwatt cannot export %s to %r: %s", signal, name, error)
        return None


class _FromThisThread(logging.Filter):
    """Drops what the exporters log while this agent exports: it reports a failing receiver itself, once."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread not in self.threads


_quiet = _FromThisThread()


@contextmanager
def exporting() -> Generator[None, None, None]:
    """While this agent talks to a receiver: not traced by other instrumentations, not logged by the exporters."""
    loggers = [
        logger
        for name, logger in list(logging.root.manager.loggerDict.items())
        if name.startswith(("opentelemetry.exporter", "opentelemetry.sdk")) and isinstance(logger, logging.Logger)
    ]
    for logger in loggers:
        logger.addFilter(_quiet)
    _quiet.threads.add(threading.get_ident())
    token = otel_context.attach(otel_context.set_value(_SUPPRESS, True))
    try:
        yield
    finally:
        otel_context.detach(token)
        _quiet.threads.discard(threading.get_ident())
        for logger in loggers:
            logger.removeFilter(_quiet)
