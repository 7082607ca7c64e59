"""The commands of taskwatt in the console of aiomonitor: `taskwatt lag`, `cpu`, `tasks`, `incidents`.

Supported: aiomonitor 0.7 and newer, through its own command group, as its documentation says extensions are made.
Nothing of aiomonitor is patched.
"""

from __future__ import annotations


def install() -> None:
    """Called when aiomonitor has been imported."""
    import aiomonitor

    from taskwatt_aiomonitor.commands import group

    aiomonitor.monitor_cli.add_command(group)


def uninstall() -> None:
    """Leave aiomonitor as it was."""
    import aiomonitor

    aiomonitor.monitor_cli.commands.pop("taskwatt", None)
