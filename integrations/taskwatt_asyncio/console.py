"""TASKWATT_AIOMONITOR=1: one aiomonitor on the loop that runs, loopback only, with taskwatt's commands in it.

Its Python console is left out: a port that takes code from whoever is on the machine is the application's to open. Nor
does it hook the task factory, which would wrap every coroutine.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from typing import Any, Final

from taskwatt_asyncio import loop_threads
from taskwatt_asyncio.loop_threads import LoopThread

log = logging.getLogger("taskwatt")

HOST: Final = "127.0.0.1"


class Console:
    """The monitor of one process; it watches the loop that started last while no other did."""

    def __init__(self) -> None:
        self._monitor: Any | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._refused = False

    def watch(self, thread: LoopThread) -> None:
        """On the loop's thread, when it starts to run. A failure is said once and is the last."""
        if self._refused or thread.detail or (self._loop is not None and not self._loop.is_closed()):
            return
        self.close()
        try:
            self._start(thread.loop)
        except Exception as error:
            self._refused = True
            log.warning("taskwatt could not start aiomonitor: %r", error)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        import aiomonitor

        commands, web = _port(aiomonitor.MONITOR_TERMUI_PORT), _port(aiomonitor.MONITOR_WEBUI_PORT)
        monitor = aiomonitor.Monitor(
            loop, host=HOST, termui_port=commands, webui_port=web, console_enabled=False, hook_task_factory=False
        )
        self._loop, self._monitor = loop, monitor
        # `start` waits for the monitor's own thread, for ever if that fails: not on the loop's.
        waiting = threading.Thread(
            target=self._begin, args=(monitor, threading.get_ident()), name="taskwatt-aiomonitor", daemon=True
        )
        waiting.start()
        log.info("taskwatt opens aiomonitor at telnet://%s:%d and http://%s:%d", HOST, commands, HOST, web)

    def _begin(self, monitor: Any, ident: int) -> None:
        monitor.start()
        monitor._event_loop_thread_id = ident  # `start` took its own thread's

    def close(self) -> None:
        """Idempotent; waits for the monitor's thread."""
        monitor, self._monitor, self._loop = self._monitor, None, None
        if monitor is None or not monitor._ui_started.is_set():
            return
        try:
            monitor.close()
        except Exception as error:
            log.warning("taskwatt could not close aiomonitor: %r", error)


_console = Console()


def install() -> None:
    """Start a monitor with the next loop. Idempotent."""
    if _console.watch not in loop_threads.on_start:
        loop_threads.on_start.append(_console.watch)


def uninstall() -> None:
    if _console.watch in loop_threads.on_start:
        loop_threads.on_start.remove(_console.watch)
    _console.close()


def _port(usual: int) -> int:
    """The usual one, or any: several processes of one program watch themselves."""
    for port in (usual, 0):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    return usual
