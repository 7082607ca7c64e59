"""A worker whose CPU three witnesses tell: see measuring.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ledger.measuring import APP, Measure, Measuring
from tests.support.carriers import carrier
from tests.support.receiver import Receiver
from tests.support.worker import Worker

__all__ = ["carrier"]


@pytest.fixture
def measure(start_worker: Callable[..., Worker], receiver: Receiver, tmp_path: Path) -> Measure:
    """Start a worker of tests/ledger/tasks.py, with the options given."""

    def start(*options: str, **environ: Any) -> Measuring:
        truth = tmp_path / "truth"
        truth.mkdir()
        worker = start_worker(
            app=APP,
            options=options,
            TRUTH_DIR=str(truth),
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_METRIC_EXPORT_INTERVAL="1000",
            **environ,
        )
        return Measuring(worker, receiver, truth)

    return start
