"""A program that publishes: `python -m tests.support.producer '[["noop", [args], {send_task options}], ...]'`.

With TASKWATT_ENABLED=1 in its environment it is an instrumented producer.
"""

from __future__ import annotations

import json
import sys

from tests.support.traced import app


def main() -> None:
    for name, args, options in json.loads(sys.argv[1]):
        print(app.send_task(f"tests.{name}", args, **options).id)


if __name__ == "__main__":
    main()
