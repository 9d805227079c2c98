"""A span for each request, in the trace that the proxy and the model server continue too (W3C Trace Context), sent by
OTLP over HTTP. Needs the extra `picker[traces]`; without the setting nothing of it is imported."""

import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from picker.bounded_text import MAX_CHARACTERS
from picker.observability.request_record import Course, TurnedAway

SPAN = "endpoint_picker.request"
NOT_SAMPLED = "-00"
"""How a `traceparent` ends whose trace nobody records: most do, so it is looked at before anything is made."""


class Traces:
    """See `request_record.RequestSink`."""

    def __init__(self, exporter: SpanExporter, version: str, sample_ratio: float) -> None:
        """`sample_ratio`: of the requests that come without a trace. Those that come with one follow its flag."""
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
        """Sends spans to a collector's `url`, its path included (`http://HOST:4318/v1/traces`)."""
        return cls(OTLPSpanExporter(endpoint=url), version, sample_ratio)

    def ended(self, course: Course) -> None:
        if _unrecorded(course.trace):
            return
        attributes: dict[str, AttributeValue] = {
            "inference.pool": course.tally.pool,
            "inference.strategy": course.tally.strategy,
            "inference.criticality": course.criticality,
            "inference.prompt_tokens.estimated": course.prompt_tokens,
            "inference.prompt_tokens.cached": course.cached_tokens,
            "inference.endpoints": course.destination.split(","),
            "inference.fell_back": course.other is not None,
            "server.address": course.endpoint.address.rpartition(":")[0].strip("[]"),
            "server.port": int(course.endpoint.address.rpartition(":")[2]),
            "k8s.pod.name": course.endpoint.server,
        }
        if course.model is not None:
            attributes["gen_ai.request.model"] = course.model
            attributes["inference.target_model"] = course.served_model or course.model
        if course.status is not None:
            attributes["http.response.status_code"] = course.status
        events = {"picked": course.decided_s - course.begun_s}
        if course.first_byte_s is not None:
            events["first_byte"] = course.first_byte_s - course.begun_s
        duration_s = (course.ended_s or course.decided_s) - course.begun_s
        self._span(course.trace, course.request_id, attributes, events, duration_s, None)

    def turned_away(self, request: TurnedAway) -> None:
        if _unrecorded(request.trace):
            return
        rejection = request.rejection
        attributes: dict[str, AttributeValue] = {
            "inference.pool": request.pool,
            "inference.strategy": request.strategy,
            "inference.criticality": request.criticality,
            "inference.prompt_tokens.estimated": request.prompt_tokens,
            "error.type": rejection.reason,
            "http.response.status_code": rejection.status,
        }
        if request.model is not None:
            attributes["gen_ai.request.model"] = request.model
        duration_s = request.decided_s - request.begun_s
        self._span(request.trace, request.request_id, attributes, {}, duration_s, rejection.message)

    def close(self) -> None:
        """Send what waits. Blocks until that is done or the exporter gives up."""
        self._provider.shutdown()

    def _span(
        self,
        trace: str | None,
        request_id: str | None,
        attributes: dict[str, AttributeValue],
        events: dict[str, float],
        duration_s: float,
        error: str | None,
    ) -> None:
        """A span that ends now. `events`: seconds after its start."""
        end_ns = time.time_ns()
        start_ns = end_ns - int(duration_s * 1e9)
        parent = self._propagator.extract({"traceparent": trace} if trace is not None else {})
        span = self._tracer.start_span(SPAN, parent, SpanKind.SERVER, attributes, start_time=start_ns)
        if span.is_recording():
            if request_id is not None:
                span.set_attribute("http.request.header.x-request-id", request_id)
            for name, after_s in events.items():
                span.add_event(name, timestamp=start_ns + int(after_s * 1e9))
            if error is not None:
                span.set_status(Status(StatusCode.ERROR, error))
        span.end(end_ns)


def _unrecorded(trace: str | None) -> bool:
    return trace is not None and trace.endswith(NOT_SAMPLED)
