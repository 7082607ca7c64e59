"""What a publisher sends and a task weighs.

Apart from the tasks: an application that is imported where the tests run registers its tasks with every other one.
"""

from __future__ import annotations

from typing import Any


def payload(entries: int) -> list[dict[str, Any]]:
    return [{"id": index, "name": f"item number {index}", "price": index * 1.1} for index in range(entries)]
