"""Of several looks at one step the line that holds it longest is told."""

from __future__ import annotations

from typing import Any

import pytest

from taskwatt.code_site import Line
from taskwatt.observations import CodeSite
from taskwatt_asyncio.sightings import Sightings

about: Any = pytest.approx
FIRST, SECOND = (Line("block", __file__, number) for number in (3, 4))


def test_a_look_that_waited_for_the_interpreter_stands_for_all_that_time() -> None:
    seen = Sightings()
    seen.add([FIRST], seconds=0.05, late_s=0.0)
    seen.add([SECOND], seconds=0.3, late_s=0.25)
    site, stack = seen.found("app.task")
    assert site == CodeSite("app.task", "block", __file__, 4, about(0.3 / 0.35), 1)
    assert stack == f'File "{__file__}", line 4, in block'


def test_a_look_that_waited_for_a_cpu_does_not() -> None:
    seen = Sightings()
    seen.add([FIRST], seconds=0.1, late_s=0.05)
    seen.waited(0.05)
    seen.add([SECOND], seconds=0.3, late_s=0.25)
    seen.waited(0.0)
    site, _ = seen.found("app.task")
    assert site == CodeSite("app.task", "block", __file__, 3, about(0.1 / 0.15), 1)


def test_what_was_never_seen_is_not_told() -> None:
    seen = Sightings()
    seen.add([], seconds=0.1, late_s=0.05)
    seen.waited(0.0)
    assert seen.found("app.task") == (None, "")
