"""The agent's life in one process: nothing, then an owner or a child, then stopped; and nothing again after a fork.

- An **owner** has a directory and a segment of its own, drains its children and exports. A worker's main process
  becomes one when it starts; any other process when it first has something to say: a publish, an event loop, a request.
- A **child** has a segment in its parent's directory, and no thread, socket or provider.

After a fork the child process forgets what it inherited without touching a lock of it.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Final

from taskwatt import accounts
from taskwatt.interruption import raised_by_a_signal
from taskwatt.meter import meter, own_cost
from taskwatt.observations import ProcessClass, Tallies
from taskwatt.prefork import is_prefork_master
from taskwatt.process_class import is_celery_worker
from taskwatt.process_class import process_class as evident_class
from taskwatt.segments import AgentDirectory, RuntimeDirectory, SegmentWriter, UnusableDirectory, layout
from taskwatt.segments.directory import agent_of
from taskwatt.segments.tallies import SUFFIX, TallyFile
from taskwatt.settings import Settings

if TYPE_CHECKING:
    from multiprocessing.util import Finalize

    from taskwatt.agent import Agent
    from taskwatt.drainer import Death

log = logging.getLogger("taskwatt")


START_AFTER_S: Final = 1.0
"""A process that measures itself starts its agent this much later: a short script is spared the imports."""
TELL_EVERY_S: Final = 1.0
"""How often a pool child says what its event loops count: as often as its main process asks."""
TELL_AT_ONCE_S: Final = 0.1
"""A task may run a loop of its own, and there may be thousands of them a second."""
_FORK_WAIT_S: Final = 5.0
_REMEMBERED: Final = 1024
_inherited: list[object] = []


class Runtime:
    """What this process is. One instance a process: `runtime`."""

    def __init__(self) -> None:
        self._forget()
        self._hooked_fork = False
        self._held: threading.Lock | None = None

    def _forget(self) -> None:
        self.tallies: Callable[[], Tallies] | None = None
        """What an integration of event loops has counted in this process; called once a tick, on the agent's thread."""
        self._starting: threading.Event | None = None
        """Set: the agent need not start any more."""
        self._starter: threading.Thread | None = None
        self._finalizer: Finalize | None = None
        self._ending = False
        self._importing = threading.Lock()
        """Held while the agent's thread imports: a process forked meanwhile would inherit half a module."""
        self.segment: SegmentWriter | None = None
        self.agent: Agent | None = None
        self.deaths: dict[int, Death] = {}
        self.ended: dict[str, str] = {}
        """Celery's state of tasks whose attempt the parent ended (revoked while running); bounded."""
        self._assumed: ProcessClass | None = None
        """What it measures itself as; None where an integration said when."""
        self._tally_file: TallyFile | None = None
        self._telling = threading.Lock()
        self._told_at = self._ended_at = -math.inf
        """When tallies were told last, and when because a loop had ended."""
        self._refused = False
        self._directory: AgentDirectory | None = None
        self._runtime_directory: RuntimeDirectory | None = None
        self._lock = threading.RLock()
        self._pid = os.getpid()

    def become_owner(self, process_class: ProcessClass) -> SegmentWriter | None:
        """Make this process drain and export for itself (and its children).

        None, said once in the log, when it cannot.
        """
        self._check_fork()
        if self.segment is not None or self._refused:
            return self.segment
        with self._lock:
            if self.segment is None and not self._refused:
                try:
                    self._open(process_class)
                except (OSError, UnusableDirectory) as error:
                    self._refused = True
                    log.warning("taskwatt is off in process %d: %s", os.getpid(), error)
        return self.segment

    def become_child(self, process_class: ProcessClass) -> SegmentWriter | None:
        """Make this process a pool child of its parent's agent.

        None when the parent has none (this process is not measured).
        """
        self._check_fork()
        if self.segment is not None or self._refused:
            return self.segment
        self._refused = True
        directory = agent_of(os.getppid(), Settings.from_environ(os.environ).directory)
        if directory is None:
            log.info("taskwatt: the parent of process %d runs no agent; this process is not measured", os.getpid())
            return None
        try:
            self.segment = SegmentWriter(directory.child_segment(os.getpid()), layout.CHILD, process_class)
        except OSError as error:
            level = logging.WARNING if directory.first_to_say("no-segment") else logging.DEBUG
            log.log(
                level, "taskwatt is off in process %d: it has no room in %s: %s", os.getpid(), directory.path, error
            )
            return None
        self._refused = False
        self._watch_forks()
        return self.segment

    def attempts_pay(self) -> bool:
        """Does a Celery attempt pay for what this process uses: always in a pool child, now and then in the solo pool?

        Coroutines, threads and rows are a detail of that attempt then, and no lines of the ledger.
        """
        return self.segment is not None and (self.segment.role == layout.CHILD or meter.in_attempt)

    def measure_self(self, default: ProcessClass | None = None) -> SegmentWriter | None:
        """This process has something to say for itself: own it, and start its agent after START_AFTER_S.

        Idempotent and cheap. Not before a pre-forking server has forked. Of a Celery worker and its pool children
        nothing happens here: their integration says when. None in a process that is not measured.
        `default`: what kind of process the caller knows it to be.
        """
        self._check_fork()
        if self.segment is not None or self._refused:
            if default is not None:
                self._reclassify(default)
            return self.segment
        if is_celery_worker() or is_prefork_master():
            return None
        name = evident_class(default)
        segment = self.become_owner(name)
        if segment is not None:
            self._assumed = name
            self._start_soon()
        return self.segment

    def _start_soon(self) -> None:
        with self._lock:
            if self._starting is not None or self.agent is not None:
                return
            self._starting = threading.Event()
        atexit.register(self._at_exit)
        self._finalizer = _before_multiprocessing_ends(self.stop)
        program = os.path.basename(sys.argv[0] or "python") if sys.argv else "python"
        arguments = self._starting, f"{program}@{os.getpid()}"
        self._starter = threading.Thread(target=self._start_later, args=arguments, name="taskwatt-start", daemon=True)
        try:
            self._starter.start()
        except RuntimeError:  # the interpreter is about to end, or there is no room for one more thread
            self._starter = None
            self.stop()
            self._refused = True

    def _start_later(self, stopped: threading.Event, service: str) -> None:
        if stopped.wait(START_AFTER_S):
            return
        with self._importing:
            with own_cost(), suppress(ImportError):  # what cannot be imported is told below
                import_module("taskwatt.agent")
            with self._lock:
                if not stopped.is_set() and not _is_ending() and self._assumed is not None:
                    self.start_agent(self._assumed, service)

    def _reclassify(self, default: ProcessClass) -> None:
        """A process that was taken for a job, when its first loop ran, has begun to serve."""
        segment = self.segment
        if segment is None or self._assumed != "job" or (name := evident_class(default)) == "job":
            return
        self._assumed = name
        segment.reclassify(name)
        if self.agent is not None:
            self.agent.reclassify(name)

    def start_agent(
        self,
        process_class: ProcessClass,
        service: str,
        received: Callable[[], Mapping[str, float]] = dict,
    ) -> Agent | None:
        """Start draining and exporting; idempotent.

        Only in an owner, and not before a pre-forking server has forked.
        """
        if self.agent is not None or self.segment is None or self._directory is None or self._runtime_directory is None:
            return self.agent
        try:
            with own_cost():
                from taskwatt.agent import Agent

                self.agent = Agent(
                    self._runtime_directory,
                    self._directory,
                    self.segment,
                    Settings.from_environ(os.environ),
                    process_class,
                    service,
                    self.deaths,
                    self.ended.get,
                    received,
                    self._ask_tallies,
                )
            self.agent.start()
        except Exception as error:
            self.agent = None
            if not _is_ending():  # where it has, there is nobody to tell and nothing to measure any more
                log.warning("taskwatt could not start its agent in process %d: %r", os.getpid(), error, exc_info=error)
            return None
        atexit.register(self._at_exit)
        return self.agent

    @property
    def is_child(self) -> bool:
        """Is this a pool child, which has a segment and no agent?"""
        return self.segment is not None and self._directory is None and self._pid == os.getpid()

    def tell_tallies(self, *, at_once: bool = False) -> None:
        """In a pool child: leave what event loops counted where the main process finds it. Elsewhere nothing happens.

        On the loop's thread: `at_once` when a loop ends, otherwise once in TELL_EVERY_S.
        """
        segment, tallies = self.segment, self.tallies
        if segment is None or tallies is None or not self.is_child:
            return
        last, pause_s = (self._ended_at, TELL_AT_ONCE_S) if at_once else (self._told_at, TELL_EVERY_S)
        if last + pause_s > time.monotonic() or not self._telling.acquire(blocking=False):
            return
        try:
            self._told_at = time.monotonic()
            if at_once:
                self._ended_at = self._told_at
            if self._tally_file is None:
                self._tally_file = TallyFile(segment.path.with_suffix(SUFFIX))
            self._tally_file.write(tallies())
        except Exception as error:
            if raised_by_a_signal(error):
                raise
            self._told_at = self._ended_at = math.inf
            log.warning("taskwatt cannot tell what event loops did in this pool process: %r", error)
        finally:
            self._telling.release()

    def _ask_tallies(self) -> Tallies | None:
        return self.tallies() if self.tallies is not None else None

    def note_death(self, pid: int, death: Death) -> None:
        """A child of this process was reaped; the drainer takes this out when it settles that child's segment."""
        if self.segment is None:
            return
        self.deaths[pid] = death
        if len(self.deaths) > _REMEMBERED:  # children that had no segment are never settled
            del self.deaths[next(iter(self.deaths))]

    def note_ended(self, task_id: str, state: str) -> None:
        """The parent ended an attempt of this task id; its record will say so."""
        if len(self.ended) > _REMEMBERED:
            self.ended.clear()
        self.ended[task_id] = state

    def stop(self) -> None:
        """Send what is left (bounded) and become nothing again; leaves no thread, file or handler."""
        if self._pid != os.getpid():
            return
        if self._starting is not None:
            self._starting.set()
        with self._lock:  # one that is just starting is stopped as any other
            agent, self.agent = self.agent, None
        starter, finalizer = self._starter, self._finalizer
        segment, directory = self.segment, self._directory
        atexit.unregister(self._at_exit)
        if agent is not None:
            agent.stop()
        elif segment is not None:
            segment.close()
            if directory is not None:
                directory.remove()
        if self._tally_file is not None:
            self._tally_file.close()
        if finalizer is not None:
            finalizer.cancel()
        self._forget()
        accounts.forget()
        if starter is not None and not self._ending and starter is not threading.current_thread():
            starter.join(_FORK_WAIT_S)

    def _at_exit(self) -> None:
        """As `stop`, but it waits for no import that is under way: that thread ends with the interpreter."""
        self._ending = True
        self.stop()

    def _open(self, process_class: ProcessClass) -> None:
        settings = Settings.from_environ(os.environ)
        self._runtime_directory, refused = RuntimeDirectory.open(settings.directory)
        for reason in refused:
            log.warning("taskwatt: %s; using %s", reason, self._runtime_directory.path)
        self._directory = self._runtime_directory.agent(os.getpid())
        self._directory.owner_segment.unlink(missing_ok=True)
        self.segment = SegmentWriter(self._directory.owner_segment, layout.OWNER, process_class)
        self._watch_forks()

    def _watch_forks(self) -> None:
        if not self._hooked_fork:
            # Handlers of register_at_fork cannot be taken back: this one stays, and does nothing in a process without
            # an agent.
            self._hooked_fork = True
            os.register_at_fork(
                before=self._before_fork, after_in_parent=self._after_fork_in_parent, after_in_child=self._after_fork
            )

    def _before_fork(self) -> None:
        lock = self._importing
        self._held = lock if lock.acquire(timeout=_FORK_WAIT_S) else None

    def _after_fork_in_parent(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.release()

    def _after_fork(self) -> None:
        self._held = None
        segment, agent, tally_file = self.segment, self.agent, self._tally_file
        # Never destroyed here: a destructor of an exporter's channel may wait for a thread that this process does not
        # have.
        _inherited.append(agent)
        self._forget()
        accounts.forget()
        with suppress(OSError, RuntimeError):  # the parent's thread was just closing one, or changing what it has
            if segment is not None:
                segment.close()
            if tally_file is not None:
                tally_file.close()
            if agent is not None:
                agent.give_back_descriptors()

    def _check_fork(self) -> None:
        if self._pid != os.getpid():
            self._after_fork()


def _is_ending() -> bool:
    """Has the interpreter begun to shut down? It refuses new threads well before its main thread counts as ended."""
    return getattr(threading, "_SHUTTING_DOWN", False) or not threading.main_thread().is_alive()


def _before_multiprocessing_ends(stop: Callable[[], None]) -> Finalize | None:
    """Children of multiprocessing leave by `os._exit`: what runs at exit does not run there, but these finalizers do.

    None in any other process.
    """
    processes = sys.modules.get("multiprocessing.process")
    if processes is None or processes.parent_process() is None:
        return None
    from multiprocessing.util import Finalize

    return Finalize(None, stop, exitpriority=-100)


runtime = Runtime()
