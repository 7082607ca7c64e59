"""The collector, Jaeger and Prometheus as a reader of the docs would start them, on free ports of the loopback."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.e2e.programs import build
from tests.support.processes import REPOSITORY, clean_environ, free_port, stop, wait_for

COLLECTOR_CONFIG = REPOSITORY / "otel-collector.yaml"
JAEGER_CONFIG = REPOSITORY / "examples" / "backends" / "jaeger.yaml"
ALERTS = REPOSITORY / "alerts" / "taskwatt.rules.yaml"
PROMETHEUS_CONFIG = REPOSITORY / "examples" / "backends" / "prometheus.yml"


def fetch(url: str, **query: str) -> Any:
    """JSON of a GET; raises OSError for what is not there and for errors."""
    with urlopen(f"{url}?{urlencode(query)}" if query else url, timeout=20) as answer:
        return json.loads(answer.read())


class Backend:
    """One program; `stop` and `start` keep its ports."""

    name: str
    patience_s = 30.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.name
        self.folder.mkdir()
        self.log_path = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def environ(self) -> Mapping[str, str]:
        return {}

    def answers(self) -> bool:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=clean_environ(**self.environ()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_for(lambda: self._answers() or self._process is None or self._process.poll() is not None, 60, self.name)
        assert self._process.poll() is None, self.log

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            stop(process, self.patience_s)

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def _answers(self) -> bool:
        try:
            return self.answers()
        except (OSError, HTTPError, URLError, ValueError):
            return False


@dataclass(frozen=True)
class JaegerSpan:
    """A span as Jaeger's API gives it."""

    trace_id: str
    span_id: str
    operation: str
    service: str
    tags: Mapping[str, Any]
    references: tuple[tuple[str, str, str], ...]
    """(CHILD_OF or FOLLOWS_FROM, trace id, span id)."""
    start_us: int
    duration_us: int

    @property
    def links(self) -> list[tuple[str, str]]:
        return [(trace_id, span_id) for kind, trace_id, span_id in self.references if kind == "FOLLOWS_FROM"]


class Jaeger(Backend):
    name = "jaeger"
    patience_s = 1.0
    """It keeps nothing, and would wait 10 s for connections that nobody uses."""

    def __init__(self, folder: Path, prometheus: str) -> None:
        super().__init__(folder)
        self.otlp = f"127.0.0.1:{free_port()}"
        self.url = f"http://127.0.0.1:{free_port()}"
        self._grpc = f"127.0.0.1:{free_port()}"
        self._prometheus = prometheus

    def command(self) -> Sequence[str]:
        return [
            str(build("jaeger")),
            f"--config={JAEGER_CONFIG}",
            f"--set=receivers.otlp.protocols.grpc.endpoint={self.otlp}",
            f"--set=extensions.jaeger_query.http.endpoint={self.url.removeprefix('http://')}",
            f"--set=extensions.jaeger_query.grpc.endpoint={self._grpc}",
        ]

    def environ(self) -> Mapping[str, str]:
        return {"PROMETHEUS_ENDPOINT": self._prometheus}

    def answers(self) -> bool:
        return fetch(f"{self.url}/api/services") is not None

    @property
    def services(self) -> list[str]:
        return sorted(fetch(f"{self.url}/api/services")["data"] or [])

    def operations(self, service: str) -> list[str]:
        return sorted(fetch(f"{self.url}/api/services/{service}/operations")["data"] or [])

    def search(self, service: str, operation: str = "", **tags: str) -> list[list[JaegerSpan]]:
        """Traces as the search form finds them. In a tag's name `__` stands for a dot."""
        query = {"service": service, "limit": "1500", "lookback": "1h"}
        if operation:
            query["operation"] = operation
        if tags:
            query["tags"] = json.dumps({name.replace("__", "."): value for name, value in tags.items()})
        return [list(_spans(trace)) for trace in fetch(f"{self.url}/api/traces", **query)["data"] or []]

    def find(self, service: str, operation: str, **tags: str) -> list[JaegerSpan]:
        """The spans of that operation in the traces that a search finds, oldest first."""
        found = [one for trace in self.search(service, operation, **tags) for one in trace]
        return sorted((one for one in found if one.operation == operation), key=lambda one: one.start_us)

    def trace(self, trace_id: str) -> list[JaegerSpan]:
        """Empty when there is none."""
        try:
            return list(_spans(fetch(f"{self.url}/api/traces/{trace_id}")["data"][0]))
        except HTTPError as error:
            if error.code == 404:
                return []
            raise

    def calls(self, service: str, kind: str) -> float:
        """Calls a second of the Monitor tab, the newest."""
        query = {"service": service, "spanKind": kind, "step": "5000", "ratePer": "60000", "lookback": "60000"}
        found = fetch(f"{self.url}/api/metrics/calls", quantile="0.95", **query)["metrics"]
        points = [point for one in found for point in one["metricPoints"]]
        return max((float(one["gaugeValue"].get("doubleValue") or 0) for one in points), default=0.0)

    def has(self, trace_id: str, span_id: str) -> bool:
        return any(span.span_id == span_id for span in self.trace(trace_id))


class Prometheus(Backend):
    name = "prometheus"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"http://127.0.0.1:{free_port()}"
        self.otlp = f"{self.url}/api/v1/otlp"

    def command(self) -> Sequence[str]:
        return [
            str(build("prometheus")),
            "--web.enable-otlp-receiver",
            "--enable-feature=exemplar-storage",
            f"--config.file={self._config()}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
        ]

    def _config(self) -> Path:
        """The one of the docs; nothing to scrape, since the collector's port is another.

        The alerts are the shipped ones with their time run faster: a test that waits for `for: 5m` is not run.
        """
        rules = ALERTS.read_text()
        for slow, fast in (
            ("[3m]", "[20s]"),
            ("[5m:15s]", "[15s:1s]"),
            ("[2m:15s]", "[5s:1s]"),
            ("[10m]", "[20s]"),
            ("offset 10m", "offset 20s"),
        ):
            assert slow in rules
            rules = rules.replace(slow, fast)
        rules = re.sub(r"for: \d+m", "for: 3s", rules).replace("> 60\n", "> 3\n")
        (self.folder / "rules.yaml").write_text(rules)
        text = PROMETHEUS_CONFIG.read_text().replace("../../alerts/taskwatt.rules.yaml", "rules.yaml")
        text = text.replace("evaluation_interval: 15s", "evaluation_interval: 1s").split("scrape_configs:")[0]
        path = self.folder / "prometheus.yml"
        path.write_text(text)
        return path

    def answers(self) -> bool:
        return bool(fetch(f"{self.url}/api/v1/status/runtimeinfo")) and self.query("vector(1)") == {(): 1.0}

    def query(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Value by sorted labels, without the metric's name."""
        found = fetch(f"{self.url}/api/v1/query", query=expression)["data"]["result"]
        return {_labels(one["metric"]): float(one["value"][1]) for one in found}

    def value(self, expression: str) -> float:
        """The one value of an expression; 0 when it has none."""
        return sum(self.query(expression).values())

    def labels(self, metric: str) -> set[str]:
        found = fetch(f"{self.url}/api/v1/query", query=metric)["data"]["result"]
        return {label for one in found for label in one["metric"]} - {"__name__"}

    def exemplars(self, expression: str) -> list[tuple[str, str]]:
        """(trace id, span id) of what is shown beside the series of an expression in the last hour."""
        now = time.time()
        within = {"start": f"{now - 3600}", "end": f"{now + 60}"}
        found = fetch(f"{self.url}/api/v1/query_exemplars", query=expression, **within)["data"]
        labels = [one["labels"] for series in found for one in series["exemplars"]]
        return [(one["trace_id"], one["span_id"]) for one in labels]

    @property
    def metrics(self) -> list[str]:
        return sorted(fetch(f"{self.url}/api/v1/label/__name__/values")["data"])

    def firing(self, job: str = "") -> set[str]:
        """Names of alerts that fire, of any job unless one is given."""
        alerts = fetch(f"{self.url}/api/v1/alerts")["data"]["alerts"]
        return {
            one["labels"]["alertname"]
            for one in alerts
            if one["state"] == "firing" and (not job or one["labels"].get("job") == job)
        }


class Collector(Backend):
    name = "otelcol"

    def __init__(self, folder: Path, jaeger: str, prometheus: str, *, keep_all: bool = False) -> None:
        """`jaeger` and `prometheus`: their OTLP endpoints. `keep_all`: every trace, so that they can be counted."""
        super().__init__(folder)
        everything = "{policies: [{name: all, type: always_sample}], decision_wait: 1s}"
        self._more = [f"--config=yaml:processors::tail_sampling: {everything}"] if keep_all else []
        self.url = f"http://127.0.0.1:{free_port()}"
        self._grpc = f"127.0.0.1:{free_port()}"
        self._own = free_port()
        self._endpoints = {"JAEGER_OTLP_ENDPOINT": jaeger, "PROMETHEUS_OTLP_ENDPOINT": prometheus}

    def command(self) -> Sequence[str]:
        reader = f"[{{pull: {{exporter: {{prometheus: {{host: 127.0.0.1, port: {self._own}}}}}}}}}]"
        return [
            str(build("otelcol")),
            f"--config={COLLECTOR_CONFIG}",
            f"--config=yaml:service::telemetry::metrics::readers: {reader}",
            *self._more,
            f"--set=receivers.otlp.protocols.http.endpoint={self.url.removeprefix('http://')}",
            f"--set=receivers.otlp.protocols.grpc.endpoint={self._grpc}",
        ]

    def environ(self) -> Mapping[str, str]:
        return self._endpoints

    def answers(self) -> bool:
        return bool(self.own_metrics())

    def own_metrics(self) -> dict[str, float]:
        """Sums over labels by name."""
        with urlopen(f"http://127.0.0.1:{self._own}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        found: dict[str, float] = {}
        for line in lines:
            if line and not line.startswith("#"):
                name, value = line.split("{", 1)[0].split(" ", 1)[0], line.rsplit(" ", 1)[1]
                found[name] = found.get(name, 0.0) + float(value)
        return found


def _labels(metric: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in metric.items() if name != "__name__"))


def _spans(trace: Mapping[str, Any]) -> Iterable[JaegerSpan]:
    for span in trace["spans"]:
        yield JaegerSpan(
            span["traceID"],
            span["spanID"],
            span["operationName"],
            trace["processes"][span["processID"]]["serviceName"],
            {tag["key"]: tag["value"] for tag in span["tags"]},
            tuple((one["refType"], one["traceID"], one["spanID"]) for one in span["references"]),
            span["startTime"],
            span["duration"],
        )
