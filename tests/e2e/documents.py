"""What stands in the docs for readers to paste."""

from __future__ import annotations

import re

from tests.support.processes import REPOSITORY


def documented(pattern: str, name: str, service: str) -> list[str]:
    """Everything in a document that `pattern` matches and that asks about a service."""
    found = re.findall(pattern, (REPOSITORY / "docs" / name).read_text(), re.DOTALL | re.MULTILINE)
    asked = [one.strip() for one in found if re.search(rf"=\W?{service}\b", one)]
    assert asked
    return asked


def short(text: str) -> str:
    return " ".join(text.split())[-60:]
