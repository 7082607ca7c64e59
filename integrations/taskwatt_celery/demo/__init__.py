"""A small system with a real bug in it, started and diagnosed by one command."""

from __future__ import annotations

from taskwatt_celery.demo.run import main

__all__ = ["main"]
