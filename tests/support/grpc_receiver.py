"""The same receiver behind OTLP/gRPC."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from .receiver import Receiver


@dataclass
class GrpcReceiver(Receiver):
    """A real server with the two services that taskwatt sends to."""

    def start(self, port: int = 0) -> None:
        self._grpc: Any = grpc.server(ThreadPoolExecutor(4))
        traces, metrics = cast(Any, trace_service_pb2_grpc), cast(Any, metrics_service_pb2_grpc)  # not typed
        traces.add_TraceServiceServicer_to_server(_Traces(self), self._grpc)
        metrics.add_MetricsServiceServicer_to_server(_Metrics(self), self._grpc)
        self._grpc_port = int(self._grpc.add_insecure_port(f"127.0.0.1:{port}"))
        self._grpc.start()

    def stop(self) -> None:
        self._grpc.stop(None).wait()

    @property
    def port(self) -> int:
        return self._grpc_port


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # the service's name
        self._receiver.requests += 1
        self._receiver.take("/v1/traces", request.SerializeToString())
        return trace_service_pb2.ExportTraceServiceResponse()


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # the service's name
        self._receiver.requests += 1
        self._receiver.take("/v1/metrics", request.SerializeToString())
        return metrics_service_pb2.ExportMetricsServiceResponse()
