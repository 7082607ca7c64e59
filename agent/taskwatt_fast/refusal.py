"""Why the accelerator does not run."""

from __future__ import annotations


class Refused(Exception):
    """Its text completes "the accelerator was not taken: ..."."""
