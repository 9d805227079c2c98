"""Spans of requests in the trace of the proxy and the model server."""

from collections.abc import Generator
from contextlib import contextmanager

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from picker.observability.traces import Traces
from picker.rejection import Rejection, RejectReason
from picker.requestcontrol.pick_request import PickRequest
from picker.requestcontrol.request_body import ParsedBody
from watched import Watched

TRACE, PARENT = "a" * 32, "b" * 16


@contextmanager
def traced(spans: list[ReadableSpan], *, ratio: float = 0.0) -> Generator[Watched]:
    """Traces requests inside the block. After it, `spans` has their spans."""
    exporter = InMemorySpanExporter()
    traces = Traces(exporter, "1.0", ratio)
    yield Watched(observers=(traces,))
    traces.close()
    spans += exporter.get_finished_spans()


def test_a_requests_span_is_a_child_of_the_span_in_its_traceparent() -> None:
    spans: list[ReadableSpan] = []
    with traced(spans) as watched:
        request = watched.scheduled(trace=f"00-{TRACE}-{PARENT}-01")
        watched.now_s = 0.5
        watched.respond(request, 200)
        watched.now_s = 2.0
        watched.end(request)
    [span] = spans
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    assert (span.end_time or 0) - (span.start_time or 0) == 2_000_000_000
    assert [(event.name, event.timestamp - (span.start_time or 0)) for event in span.events] == [
        ("picked", 0), ("first_byte", 500_000_000),
    ]  # fmt: skip
    assert dict(span.attributes or {})["gen_ai.request.model"] == "m"


def test_a_trace_that_is_not_sampled_gets_no_span() -> None:
    spans: list[ReadableSpan] = []
    with traced(spans, ratio=1.0) as watched:
        request = watched.scheduled(trace=f"00-{TRACE}-{PARENT}-00")
        watched.end(request)
    assert spans == []


def test_the_sample_ratio_applies_to_requests_without_a_trace() -> None:
    all_of_them: list[ReadableSpan] = []
    none: list[ReadableSpan] = []
    for spans, ratio in ((all_of_them, 1.0), (none, 0.0)):
        with traced(spans, ratio=ratio) as watched:
            for _ in range(5):
                watched.end(watched.scheduled())
    assert (len(all_of_them), len(none)) == (5, 0)


def test_an_invalid_traceparent_begins_a_new_trace() -> None:
    spans: list[ReadableSpan] = []
    with traced(spans, ratio=1.0) as watched:
        request = watched.scheduled(trace="rubbish")
        watched.end(request)
    assert spans[0].parent is None


def test_the_span_of_a_rejected_request_is_an_error_with_its_reason() -> None:
    spans: list[ReadableSpan] = []
    with traced(spans) as watched:
        watched.assign(trace=f"00-{TRACE}-{PARENT}-01", subset=frozenset())
    [span] = spans
    assert span.status.status_code is StatusCode.ERROR
    assert dict(span.attributes or {})["error.type"] == "subset-empty"


def test_attributes_and_messages_are_bounded() -> None:
    spans: list[ReadableSpan] = []
    text = "k" * 40_000
    with traced(spans, ratio=1.0) as watched:
        pool = str(watched.pools[0].pool.name)
        body = ParsedBody(text, prompt=b"x", salt=b"", prompt_tokens=1, output_tokens=1)
        watched.director.report_rejected(PickRequest(pool, body, None), Rejection(RejectReason.MODEL_UNKNOWN, text))
        request = watched.scheduled(text)
        watched.end(request)
    assert len(spans) == 2
    for span in spans:
        texts = [value for value in (span.attributes or {}).values() if isinstance(value, str)]
        assert max(map(len, texts)) <= 256
        assert len(span.status.description or "") <= 1024
