"""The documents name everything that users can meet: a name that is in the code and not in them fails here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields

from taskwatt.cli.main import COMMANDS
from taskwatt.rules import CAUSES, RULES
from taskwatt.settings import Settings
from tests.support.processes import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
REFERENCE = (REPOSITORY / "docs/reference.md").read_text()
DESIGN = (REPOSITORY / "docs/design.md").read_text()
SOURCES = [path for root in ("agent", "integrations") for path in sorted((REPOSITORY / root).rglob("*.py"))]

PLACEHOLDER = re.compile(r"%[-+.\d]*[a-z]")


def test_every_setting_is_in_both_tables() -> None:
    source = (REPOSITORY / "agent/taskwatt/settings.py").read_text()
    named = set(re.findall(r'read\("(TASKWATT_\w+)"', source))
    assert len(named) == len(fields(Settings))
    assert {name for name in named if name not in README or name not in REFERENCE} == set()


def test_every_cause_is_in_the_readme_and_watched_ones_say_so() -> None:
    assert [cause for cause in CAUSES if f"`{cause}`" not in README] == []
    watched = {line.split("`")[1] for line in README.splitlines() if line.startswith("| `") and "| watched |" in line}
    assert watched == {rule.cause for rule in RULES}


def test_every_metric_is_in_the_reference() -> None:
    sources = _source("export/metrics.py") + _source("export/loop_metrics.py")
    declared = set(re.findall(r'"((?:taskwatt|celery|asyncio)\.[a-z_.]+)"', sources))
    assert {"taskwatt.cpu.time", "celery.queue.depth", "asyncio.eventloop.delay"} <= declared
    assert {name for name in declared if f"`{name}`" not in REFERENCE} == set()


def test_every_attribute_of_a_span_is_in_the_reference() -> None:
    sources = "".join(map(_source, ("export/attributes.py", "export/stalls.py", "export/span_cpu.py")))
    declared = re.findall(r'"((?:taskwatt|celery|messaging|code|thread)\.[a-z_.]+)"', sources)
    assert "taskwatt.evidence.value" in declared
    short = {f".{name.rpartition('.')[2]}": name for name in declared}
    written = {name for end, name in short.items() if f"`{end}`" in REFERENCE}
    assert {name for name in declared if f"`{name}`" not in REFERENCE and name not in written} == set()


def test_every_module_is_on_the_map() -> None:
    names = [path for path in SOURCES if path.name not in ("__init__.py", "__main__.py")]
    assert [str(path.relative_to(REPOSITORY)) for path in names if f"{path.name}`" not in DESIGN] == []


def test_every_command_is_in_the_readme() -> None:
    assert [name for name in COMMANDS if f"`{name}" not in README and f"taskwatt {name}" not in README] == []


def test_every_log_line_is_in_the_reference() -> None:
    lines = {line for path in SOURCES for line in _log_lines(path.read_text())}
    told = {_told(line) for line in lines}
    assert "taskwatt watches this worker (pid" in told
    assert {part for part in told if part not in REFERENCE} == set()


def test_the_readme_stays_short() -> None:
    assert len(README.splitlines()) < 150


def _source(name: str) -> str:
    return (REPOSITORY / "agent/taskwatt" / name).read_text()


def _told(line: str) -> str:
    """The first words of a format that say something by themselves."""
    parts = [part.strip(" :;,'") for part in PLACEHOLDER.split(line)]
    return next((part for part in parts if len(part) >= 10), max(parts, key=len))


def _log_lines(source: str) -> Iterator[str]:
    """Formats of what is logged from INFO up."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            logger = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            if name == "_warn" or (name in ("info", "warning", "error") and "log" in logger):
                text = _text(node.args[0])
                if text and text != "%s: %r":
                    yield text


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "%s" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
