"""Runs one case: the subject, its arrivals, the fault, and the recorders of the truth."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.case import Case, Subject
from tests.faults.kernel import Kernel
from tests.faults.notes import Notes
from tests.faults.verdicts import Document, Opened, latest, opened

POLL_S = 0.2
FIRST_DOCUMENT_S = 20.0


@dataclass(frozen=True)
class Run:
    """Everything seen of one case."""

    case: Case
    struck_ns: int
    documents: tuple[Document, ...]
    """Each once, oldest first."""
    opened: tuple[Opened, ...]
    kernel: Kernel
    notes: Notes
    behind_s: float
    """How late the latest arrival was offered."""


def run(case: Case) -> Run:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taskwatt-faults-")))
        stack.enter_context(case.fault)
        with case.subject(folder) as subject:
            documents = [_first_document(subject)]
            with Kernel(lambda: subject.pids, lambda: [os.getpid(), *subject.servers, *case.fault.pids]) as kernel:
                began = time.monotonic()
                with _load(case, subject, began) as load:
                    _watch(subject, documents, began + case.onset_s)
                    case.fault.strike()
                    struck_ns = time.time_ns()
                    _watch(subject, documents, began + case.seconds)
        # The subject has ended: its history is whole.
        incidents = tuple(opened(subject.directory))
        notes = Notes.read(subject.notes)
    return Run(case, struck_ns, tuple(documents), incidents, kernel, notes, load.behind_s)


def _first_document(subject: Subject) -> Document:
    until = time.monotonic() + FIRST_DOCUMENT_S
    while time.monotonic() < until:
        found = latest(subject.directory)
        if found is not None:
            return found
        time.sleep(POLL_S)
    raise AssertionError(f"the agent said nothing within {FIRST_DOCUMENT_S:g} s")


def _watch(subject: Subject, documents: list[Document], until: float) -> None:
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(POLL_S, left))
        found = latest(subject.directory)
        if found is not None and found.to_ns > documents[-1].to_ns:
            documents.append(found)


class _Load(threading.Thread):
    """Offers each arrival at its time, however the subject fares."""

    def __init__(self, case: Case, subject: Subject, began: float) -> None:
        super().__init__(daemon=True)
        self._case, self._subject, self._began = case, subject, began
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self.behind_s = 0.0

    def run(self) -> None:
        try:
            for arrival in self._case.arrivals:
                due = self._began + arrival.at_s
                if self._stopped.wait(max(0.0, due - time.monotonic())):
                    return
                self.behind_s = max(self.behind_s, time.monotonic() - due)
                self._subject.offer(arrival)
        except BaseException as error:
            self._error = error

    def stop(self) -> None:
        self._stopped.set()
        self.join()
        if self._error is not None:
            raise self._error


@contextmanager
def _load(case: Case, subject: Subject, began: float) -> Iterator[_Load]:
    load = _Load(case, subject, began)
    load.start()
    try:
        yield load
    finally:
        load.stop()
