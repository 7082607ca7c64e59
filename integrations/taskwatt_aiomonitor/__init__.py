"""The commands of taskwatt in the console of aiomonitor."""

from __future__ import annotations


def install() -> None:
    """Called when aiomonitor has been imported."""


def uninstall() -> None:
    """Leave aiomonitor as it was."""
