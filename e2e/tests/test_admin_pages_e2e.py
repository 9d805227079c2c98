"""Metrics, decisions, access log and traces of requests through a real Envoy."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from e2e.processes import free_ports
from gateway_parts import GatewayParts, metric, model, pool, route, service, to_pool, to_service
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from picker.endpoints.datastore import service_key
from picker.resources.names import ObjectName
from upstream import Upstream
from waiting import eventually, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

COLLECTOR = service_key(ObjectName("default", "collector"), 8000)
TRACE = "0af7651916cd43dd8448eb211c80319c"


def traced(listeners: str) -> str:
    """Envoy's listeners, with traces of all requests sent to the collector."""
    found = json.loads(listeners)
    for listener in found["resources"]:
        for chain in listener["filter_chains"]:
            chain["filters"][0]["typed_config"]["tracing"] = {
                "random_sampling": {"value": 100},
                "provider": {
                    "name": "envoy.tracers.opentelemetry",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                        "service_name": "envoy",
                        "http_service": {
                            "http_uri": {"uri": "http://collector/v1/traces", "cluster": COLLECTOR, "timeout": "1s"}
                        },
                    },
                },
            }
    return json.dumps(found)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayParts]:
    [port] = free_ports(1)
    manifests = [
        pool("a"),
        model("renamed", "a", target=1),
        service("collector"),
        route("main", "main", {"backendRefs": [to_pool("a")]}),
        route("spans", "spans", {"backendRefs": [to_service("collector")]}),
    ]
    upstreams = {"a": [Upstream("one"), Upstream("two")], "collector": [Upstream("collector", port=port)]}
    log = tmp_path_factory.mktemp("log") / "access.jsonl"
    arguments = [f"--access-log={log}", f"--traces-endpoint=http://127.0.0.1:{port}/v1/traces"]
    async with GatewayParts(upstreams, ["main", "spans"], manifests, arguments, traced) as parts:
        yield parts


async def send(gateway: GatewayParts, name: str = "m", **headers: str) -> str:
    """Sends a request. Returns the request id in its response."""
    sent = {key.replace("_", "-"): value for key, value in headers.items()}
    answer = await gateway.client.post(gateway.url("main"), json={"model": name, "prompt": "hi " * 200}, headers=sent)
    assert answer.status_code == 200
    await gateway.nothing_in_flight()
    return answer.headers["x-request-id"]


async def test_requests_are_counted_in_the_metrics(gateway: GatewayParts) -> None:
    names = ("inference_objective_request_total", "inference_model_request_duration_seconds_count")
    before = [await metric(gateway, name, model_name="moving") for name in names]
    for _ in range(3):
        await send(gateway, "moving")
    assert [await metric(gateway, name, model_name="moving") for name in names] == [count + 3 for count in before]
    assert await metric(gateway, "inference_objective_running_requests") == 0
    assert await metric(gateway, "inference_gateway_endpoint_metrics_age_seconds", pool="default/a") < 5.0
    assert await metric(gateway, "inference_gateway_scrapes_total", result="ok") > 0
    assert await metric(gateway, "inference_pool_ready_pods", name="a") == 2


async def test_first_byte_and_status_of_a_rewritten_response_are_recorded(gateway: GatewayParts) -> None:
    """A response passes the picker if it rewrites the model."""
    before = await metric(gateway, "inference_gateway_time_to_first_byte_seconds_count")
    request_id = await send(gateway, "renamed")
    assert await metric(gateway, "inference_gateway_time_to_first_byte_seconds_count") == before + 1
    [decision] = (await gateway.client.get(_decisions(gateway, request_id))).json()
    assert (decision["target_model"], decision["status"], decision["outcome"]) == ("target", 200, "ended")


async def test_a_request_without_json_is_counted_as_an_error_of_its_pool(gateway: GatewayParts) -> None:
    answer = await gateway.client.post(gateway.url("main"), content=b"{")
    assert answer.status_code == 400
    assert await metric(gateway, "inference_gateway_rejections_total", pool="default/a", reason="body-not-json") == 1
    assert await metric(gateway, "inference_objective_request_error_total", error_code="BadRequest") == 1


async def test_explain_finds_the_decision_by_the_responses_request_id(gateway: GatewayParts) -> None:
    """`picker explain` prints the decision."""
    request_id = await send(gateway)
    command = [
        sys.executable,
        "-m",
        "picker",
        "explain",
        request_id,
        "--url",
        f"http://{gateway.settings.admin_address}",
    ]
    explain = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await explain.communicate()
    assert explain.returncode == 0
    assert f"request {request_id}" in out.decode()
    assert "of 2" in out.decode()


async def test_a_request_has_a_line_in_the_access_log(gateway: GatewayParts) -> None:
    request_id = await send(gateway, "logged")
    path = Path(gateway.settings.access_log or "")
    await until(lambda: path.exists() and request_id in path.read_text(), "the request is in the access log")
    [line] = [json.loads(entry) for entry in path.read_text().splitlines() if request_id in entry]
    assert (line["model"], line["pool"], line["path"]) == ("logged", "default/a", "/v1/completions")
    assert line["endpoint"] in {upstream.address for upstream in gateway.upstreams["a"]}
    assert line["duration_s"] > 0


async def test_spans_of_envoy_and_picker_are_in_one_trace(gateway: GatewayParts) -> None:
    """The picker's span is a child of one of Envoy's. The server gets the trace id, too."""
    collector = gateway.upstreams["collector"][0]

    async def both() -> bool:
        # Envoy exports spans in batches.
        await send(gateway, traceparent=f"00-{TRACE}-b7ad6b7169203331-01")
        return {"envoy", "endpoint-picker"} <= _spans(collector).keys()

    await eventually(both, "both have exported spans", timeout_s=30.0)
    served = gateway.upstreams["a"][0].received + gateway.upstreams["a"][1].received
    assert any(TRACE in request.headers.get("traceparent", "") for request in served)

    def joined() -> bool:
        spans = _spans(collector)
        ids = {span.span_id for span in spans["envoy"]}
        return any(span.parent_span_id in ids and span.trace_id.hex() == TRACE for span in spans["endpoint-picker"])

    await until(joined, "a span of the picker is a child of one of Envoy's")


def _spans(collector: Upstream) -> dict[str, list[Span]]:
    """Exported spans by service name."""
    found: dict[str, list[Span]] = {}
    for request in collector.received:
        for resource in ExportTraceServiceRequest.FromString(request.body).resource_spans:
            [service] = [
                attribute.value.string_value
                for attribute in resource.resource.attributes
                if attribute.key == "service.name"
            ]
            found.setdefault(service, []).extend(span for scope in resource.scope_spans for span in scope.spans)
    return found


def _decisions(gateway: GatewayParts, request_id: str) -> str:
    return f"http://{gateway.settings.admin_address}/decisions?request_id={request_id}"
