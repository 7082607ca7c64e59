"""Servers with requests in C and with requests in pure Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.carriers import part_in_c
from tests.support.server import Server


@pytest.fixture(params=["auto", "0"], ids=["C", "Python"])
def serve(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Server]]:
    """Start a web server with the arguments of `Server`; it is stopped when the test ends."""
    if request.param == "auto":
        part_in_c()
    with ExitStack() as running:

        def start(command: Sequence[str], **environ: str) -> Server:
            return running.enter_context(Server(tmp_path, command, TASKWATT_ACCELERATOR=request.param, **environ))

        yield start
