"""Which receivers the standard variables ask for."""

from __future__ import annotations

import pytest

from taskwatt.export.exporters import metric_exporters, resource, span_exporters, wanted

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}


@pytest.mark.parametrize(
    ("environ", "traces", "metrics"),
    [
        ({}, [], []),
        (ENDPOINT, ["otlp"], ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, ["otlp"], []),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x"}, [], ["otlp"]),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, [], ["otlp"]),
        ({"OTEL_METRICS_EXPORTER": "prometheus, otlp,,none"}, [], ["prometheus", "otlp"]),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": " "}, ["otlp"], ["otlp"]),
        (ENDPOINT | {"OTEL_SDK_DISABLED": " True"}, [], []),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "no"}, ["otlp"], ["otlp"]),
    ],
)
def test_the_standard_variables_name_the_exporters(
    environ: dict[str, str], traces: list[str], metrics: list[str]
) -> None:
    assert (wanted("TRACES", environ), wanted("METRICS", environ)) == (traces, metrics)


def test_an_exporter_that_is_not_installed_is_named_and_the_others_are_made(caplog: pytest.LogCaptureFixture) -> None:
    environ = ENDPOINT | {"OTEL_TRACES_EXPORTER": "carrier-pigeon,otlp"}
    made = span_exporters(environ)
    assert [type(one).__module__.split(".")[4] for one in made] == ["http"]
    assert [one.getMessage() for one in caplog.records] == [
        "taskwatt cannot export traces to 'carrier-pigeon': no such exporter is installed"
    ]
    for one in made:
        one.shutdown()


@pytest.mark.parametrize(
    ("environ", "transport"),
    [
        ({}, "http"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf"}, "http"),
    ],
)
def test_the_protocol_variables_choose_the_transport(environ: dict[str, str], transport: str) -> None:
    (made,) = metric_exporters(ENDPOINT | environ)
    assert transport in type(made).__module__
    made.shutdown()


def test_the_environment_s_resource_goes_before_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {"service.name": "celery", "service.instance.id": "host/celery@host"}
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)
    default = resource(ours).attributes
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=shop-1,team=pay")
    named = resource(ours).attributes
    keys = ("service.name", "service.instance.id", "team")
    assert [default.get(key) for key in keys] == ["celery", "host/celery@host", None]
    assert [named.get(key) for key in keys] == ["shop", "shop-1", "pay"]
    assert resource({}).attributes["telemetry.sdk.name"] == "opentelemetry"
