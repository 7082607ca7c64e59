"""Requests of gunicorn's synchronous workers."""

from __future__ import annotations


def install() -> None:
    """Called when gunicorn.workers.base has been imported."""


def uninstall() -> None:
    """Leave gunicorn as it was."""
