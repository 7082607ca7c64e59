"""The local history on a disk that fills up: a line is whole or not there, and what is not there is counted."""

from __future__ import annotations

import json
from pathlib import Path

from taskwatt.export.history import HistoryWriter
from tests.loss.test_journal import files_of_at_most


def test_a_disk_that_fills_up_within_a_line_spoils_no_other_line(tmp_path: Path) -> None:
    history = HistoryWriter(tmp_path, "agent")
    history.append({"number": 1})
    with files_of_at_most(20):
        history.append({"number": 2})
    history.append({"number": 3})
    lines = [json.loads(line) for line in history.path.read_text().splitlines()]
    assert lines == [{"number": 1}, {"number": 3}]
    assert history.dropped == 1
