"""Exports a span for each request by OTLP over HTTP, in the trace of the proxy and the model server (W3C Trace
Context). Needs the extra `picker[traces]`. It is imported only if the setting `traces_endpoint` is set."""

import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from picker.addresses import split_address
from picker.bounded_text import MAX_CHARACTERS
from picker.observability.priority_labels import criticality_name
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.pick_request import RequestInfo
from picker.requestcontrol.request_observer import RejectedRequest, RequestObserver
from picker.requestcontrol.served_pool import ServedPool

SPAN = "endpoint_picker.request"
NOT_SAMPLED = "-00"
"""The end of a `traceparent` whose trace is not sampled. Most are not sampled, so this is checked first."""


class Traces(RequestObserver):
    """Exports a span for each request."""

    def __init__(self, exporter: SpanExporter, version: str, sample_ratio: float) -> None:
        """`sample_ratio`: of requests without a `traceparent`. The flag of a `traceparent` overrides it."""
        resource = Resource.create({SERVICE_NAME: "endpoint-picker", SERVICE_VERSION: version})
        self._provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(sample_ratio),
            resource=resource,
            span_limits=SpanLimits(max_attributes=32, max_events=8, max_attribute_length=MAX_CHARACTERS),
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("picker", version)
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def to(cls, url: str, version: str, sample_ratio: float) -> "Traces":
        """Returns an observer that exports spans to a collector's `url` (`http://HOST:4318/v1/traces`)."""
        return cls(OTLPSpanExporter(endpoint=url), version, sample_ratio)

    def ended(self, request: InFlightRequest) -> None:
        if _not_sampled(request.info.trace):
            return
        host, port = split_address(request.endpoint.address)
        attributes: dict[str, AttributeValue] = {
            "inference.pool": request.pool,
            "inference.strategy": request.strategy,
            "inference.criticality": criticality_name(request.request.priority),
            "inference.priority": request.request.priority,
            "inference.prompt_tokens.estimated": request.request.prompt_tokens,
            "inference.prompt_tokens.cached": request.ranking.cached_tokens,
            "inference.endpoints": request.destination.split(","),
            "inference.fell_back": request.rerouted,
            "server.address": host,
            "server.port": port,
            "k8s.pod.name": request.endpoint.server,
        }
        if request.requested_model is not None:
            attributes["gen_ai.request.model"] = request.requested_model
            attributes["inference.target_model"] = request.served_model or request.requested_model
        if request.status is not None:
            attributes["http.response.status_code"] = request.status
        events = {"picked": request.decided_s - request.begun_s}
        if request.response_s is not None:
            events["first_byte"] = request.response_s - request.begun_s
        duration_s = (request.ended_s or request.decided_s) - request.begun_s
        self._span(request.info, attributes, events, duration_s, None)

    def rejected(self, request: RejectedRequest, pool: ServedPool | None) -> None:
        if _not_sampled(request.info.trace):
            return
        rejection = request.rejection
        attributes: dict[str, AttributeValue] = {
            "inference.pool": request.pool,
            "inference.strategy": request.strategy,
            "inference.criticality": criticality_name(request.priority),
            "inference.prompt_tokens.estimated": request.prompt_tokens,
            "error.type": rejection.reason,
            "http.response.status_code": rejection.status,
        }
        if request.priority is not None:
            attributes["inference.priority"] = request.priority
        if request.requested_model is not None:
            attributes["gen_ai.request.model"] = request.requested_model
        self._span(request.info, attributes, {}, request.decided_s - request.begun_s, rejection.message)

    def close(self) -> None:
        """Exports the spans that wait. Blocks until the export succeeds or fails."""
        self._provider.shutdown()

    def _span(
        self,
        info: RequestInfo,
        attributes: dict[str, AttributeValue],
        events: dict[str, float],
        duration_s: float,
        error: str | None,
    ) -> None:
        """Makes a span that ends now. `events`: seconds after its start, by name."""
        end_ns = time.time_ns()
        start_ns = end_ns - int(duration_s * 1e9)
        parent = self._propagator.extract({"traceparent": info.trace} if info.trace is not None else {})
        span = self._tracer.start_span(SPAN, parent, SpanKind.SERVER, attributes, start_time=start_ns)
        if span.is_recording():
            if info.request_id is not None:
                span.set_attribute("http.request.header.x-request-id", info.request_id)
            for name, after_s in events.items():
                span.add_event(name, timestamp=start_ns + int(after_s * 1e9))
            if error is not None:
                span.set_status(Status(StatusCode.ERROR, error))
        span.end(end_ns)


def _not_sampled(trace: str | None) -> bool:
    return trace is not None and trace.endswith(NOT_SAMPLED)
