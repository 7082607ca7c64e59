"""The files that users take from here, checked by the programs that read them."""

from __future__ import annotations

import subprocess

import pytest

from tests.e2e.programs import build
from tests.support.processes import REPOSITORY


def said(program: str, *arguments: str) -> str:
    """What a program that must end well says; run at the top of the repository, as the docs say."""
    done = subprocess.run(
        [str(build(program)), *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


@pytest.mark.parametrize("name", ["otel-collector.yaml", "otel-collector-debug.yaml"])
def test_the_collector_accepts_the_file_and_names_nothing_as_old(name: str) -> None:
    assert "deprecated" not in said("otelcol", "validate", f"--config={name}").lower()


def test_jaeger_accepts_its_file() -> None:
    said("jaeger", "validate", "--config=examples/backends/jaeger.yaml")


def test_prometheus_accepts_its_file_and_the_alerts() -> None:
    assert "7 rules found" in said("promtool", "check", "config", "examples/backends/prometheus.yml")


def test_each_alert_fires_and_stays_quiet_in_its_cases() -> None:
    said("promtool", "test", "rules", "alerts/taskwatt.rules.test.yaml")
