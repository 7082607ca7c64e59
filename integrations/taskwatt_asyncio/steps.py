"""Measures every step of stock loops, in pure Python: one wrapper around `asyncio.Handle._run`."""

from __future__ import annotations


def install() -> None:
    """Patch `asyncio.events.Handle._run`. Idempotent; any thread."""


def uninstall() -> None:
    """Restore it, also while steps run: they end as they began. Idempotent."""
