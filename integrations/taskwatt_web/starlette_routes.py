"""Requests of Starlette and FastAPI, billed to `METHOD route`."""

from __future__ import annotations


def install() -> None:
    """Called when starlette.routing has been imported."""


def uninstall() -> None:
    """Leave Starlette as it was."""
