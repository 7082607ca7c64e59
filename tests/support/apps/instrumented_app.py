"""The FastAPI application with OpenTelemetry's own instrumentation on it."""

from __future__ import annotations

from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider

from tests.support.apps.fastapi_app import app

FastAPIInstrumentor.instrument_app(app, tracer_provider=TracerProvider())

__all__ = ["app"]
