"""Requests of Django, under ASGI and WSGI, billed to `METHOD route`."""

from __future__ import annotations


def install() -> None:
    """Called when django.core.handlers.base has been imported."""


def uninstall() -> None:
    """Leave Django as it was."""
