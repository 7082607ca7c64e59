"""Event loops: CPU, lag and stalls of every loop, and CPU per coroutine type."""

from __future__ import annotations


def install() -> None:
    """Called when asyncio has been imported."""


def uninstall() -> None:
    """Leave asyncio as it was."""
