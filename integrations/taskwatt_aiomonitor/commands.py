"""What the commands of the console print: the agent's newest window, as tables.

They run on aiomonitor's thread and only read what the agent last said of this process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
from aiomonitor.termui import commands

from taskwatt.report import text
from taskwatt.report.terminal import Paint, plain, shortened
from taskwatt.runtime import runtime

if TYPE_CHECKING:
    from taskwatt.agent import Agent

_theirs: Any = commands
WIDTH = 100
ROWS = 20
NOT_YET = "taskwatt has not looked at this process yet; its agent starts a second after the first event loop."


group: Any = type(_theirs.monitor_cli)(
    "taskwatt", add_help_option=False, help="CPU, lag and incidents of this process (taskwatt)"
)


def _command(name: str) -> Callable[[Callable[[Agent], Sequence[str]]], None]:
    """A command that prints lines about the agent of this process."""

    def add(lines: Callable[[Agent], Sequence[str]]) -> None:
        def show(_: click.Context) -> None:
            agent = runtime.agent
            shown = lines(agent) if agent is not None and agent.window is not None else [NOT_YET]
            click.echo("\n".join(plain(line) for line in shown))

        show.__doc__ = lines.__doc__
        group.command(name=name)(_theirs.custom_help_option(_theirs.auto_command_done(show)))

    return add


@_command("lag")
def lag(agent: Agent) -> Sequence[str]:
    """How long an arrival waits for each event loop"""
    assert agent.window is not None
    if not agent.window.loops:
        return ["No event loop of this process ran in the window."]
    rows = [f"{'loop':<24}{'busy':>7}{'p50':>10}{'p99':>10}{'stalls':>8}  longest stall"]
    for loop in agent.window.loops:
        worst = loop.worst
        where = f"{worst.duration_s * 1e3:.0f} ms, {worst.cause}" if worst is not None else "-"
        if worst is not None and worst.code is not None:
            where += f", {worst.code.function} ({worst.code.file}:{worst.code.line})"
        p50, p99 = (f"{loop.delay_quantile(share) * 1e3:.1f} ms" for share in (0.5, 0.99))
        rows.append(
            f"{shortened(loop.name, 23):<24}{loop.utilization:>7.0%}{p50:>10}{p99:>10}{loop.slow_steps:>8}  {where}"
        )
        if loop.partial:
            rows.append(f"{'':<24}partial: {loop.partial}")
    return rows


@_command("cpu")
def cpu(agent: Agent) -> Sequence[str]:
    """Where the CPU of this process goes, by task type and outcome"""
    return text.ledger(agent.document, Paint(color=False), WIDTH, ROWS)


@_command("tasks")
def tasks(agent: Agent) -> Sequence[str]:
    """Coroutine and callback types, the dearest first"""
    assert agent.window is not None
    types = sorted(agent.window.coroutines, key=lambda one: -one.cpu_s)
    rows = [f"{'type':<48}{'CPU ms':>9}{'steps':>9}{'longest':>10}{'live':>8}{'ended':>8}{'failed':>8}"]
    rows += [
        f"{shortened(one.name, 47):<48}{one.cpu_s * 1e3:>9.1f}{one.steps:>9}{one.longest_s * 1e3:>7.1f} ms"
        f"{one.live:>8}{one.ended:>8}{one.failed:>8}"
        for one in types[:ROWS]
    ]
    if len(types) > ROWS:
        rows.append(f"and {len(types) - ROWS} more")
    return [*rows, f"last {agent.window.seconds:.0f} s"]


@_command("incidents")
def incidents(agent: Agent) -> Sequence[str]:
    """What is wrong now"""
    opened = agent.incidents
    if not opened:
        return ["No incident is open."]
    return [f"{one.severity:<9}{one.finding.cause:<18}{one.id}  {one.finding.summary}" for one in opened]
