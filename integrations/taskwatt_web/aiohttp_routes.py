"""Requests of an aiohttp server, billed to `METHOD route`."""

from __future__ import annotations


def install() -> None:
    """Called when aiohttp.web has been imported."""


def uninstall() -> None:
    """Leave aiohttp as it was."""
