"""A real export pipeline whose agent has seen nothing, for tests that bring their own journal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from taskwatt.export.history import HistoryWriter
from taskwatt.export.metrics import Observed
from taskwatt.export.pipeline import Pipeline
from taskwatt.gauges import Reading
from taskwatt.journal import Journal
from taskwatt.observations import ProcessClass
from taskwatt.windows import LoopWindow
from taskwatt.windows.ledger import Ledger
from taskwatt.windows.loops import LoopWindows


class Idle:
    """What the instruments of an agent that has seen no attempt read."""

    ledger = Ledger()
    readings: Sequence[Reading] = (Reading("taskwatt.cpu.effective", 2.0, {}),)
    loop_windows: Sequence[LoopWindow] = ()
    process_class: ProcessClass = "worker"

    def __init__(self) -> None:
        self.dropped: dict[str, int] = {}
        self.loops = LoopWindows((10,))

    def incidents_active(self) -> Iterable[tuple[str, str]]:
        return ()

    def unattributed(self) -> Iterable[tuple[ProcessClass, float]]:
        return ()

    def run_delay(self) -> Iterable[tuple[str, float]]:
        return ()


def pipeline_of(
    observed: Observed, journal: Journal, folder: Path, incident_of: Callable[[str], str | None] = lambda _: None
) -> Pipeline:
    """Not started. It exports as the environment of the test says; its local history is below `folder`."""
    return Pipeline(
        observed,
        journal,
        HistoryWriter(folder / "history", "agent"),
        service="shop",
        excluded=lambda _: False,
        incident_of=incident_of,
        code_of=lambda _: None,
        environ=os.environ,
    )
