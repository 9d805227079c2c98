"""Responses of Envoy itself, on routes to pools and on others, through a real Envoy."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from gateway_parts import GatewayParts, pool, route, service, to_pool, to_service
from upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = b'{"model": "m", "prompt": "hello"}'
FILTERS = "envoy.filters.http"
JWKS = '{"keys": [{"kty": "oct", "alg": "HS256", "k": "c2VjcmV0"}]}'


def with_policies(listeners: str) -> str:
    """Adds filters as Envoy Gateway does for policies. Each answers requests with a header of its own."""
    value = json.loads(listeners)
    for listener in value["resources"]:
        for chain in listener["filter_chains"]:
            for network_filter in chain["filters"]:
                network_filter["typed_config"]["http_filters"][:0] = [_rate_limit(), _jwt(), _denial()]
    return json.dumps(value)


def _rate_limit() -> dict[str, Any]:
    """429 for requests with the header x-limited."""
    bucket = {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s"}
    always = {"default_value": {"numerator": 100}}
    return {
        "name": f"{FILTERS}.local_ratelimit",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "limited",
            "token_bucket": {**bucket, "max_tokens": 1_000_000, "tokens_per_fill": 1_000_000},
            "filter_enabled": always,
            "filter_enforced": always,
            "rate_limits": [{"actions": [{"request_headers": {"header_name": "x-limited", "descriptor_key": "x"}}]}],
            "descriptors": [
                {"entries": [{"key": "x", "value": "yes"}], "token_bucket": {**bucket, "max_tokens": 1}},
            ],
        },
    }


def _jwt() -> dict[str, Any]:
    """401 for requests with the header x-secured."""
    return {
        "name": f"{FILTERS}.jwt_authn",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"one": {"issuer": "one", "local_jwks": {"inline_string": JWKS}}},
            "rules": [
                {
                    "match": {"prefix": "/", "headers": [{"name": "x-secured", "present_match": True}]},
                    "requires": {"provider_name": "one"},
                }
            ],
        },
    }


def _denial() -> dict[str, Any]:
    """403 for requests with the header x-denied."""
    principal = {"header": {"name": "x-denied", "present_match": True}}
    return {
        "name": f"{FILTERS}.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {
                "action": "DENY",
                "policies": {"one": {"permissions": [{"any": True}], "principals": [principal]}},
            },
        },
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[GatewayParts]:
    def rules(backend: object) -> list[dict[str, object]]:
        slow = {"path": {"type": "PathPrefix", "value": "/slow"}}
        return [
            {"matches": [slow], "timeouts": {"request": "300ms"}, "backendRefs": [backend]},
            {"backendRefs": [backend]},
        ]

    manifests = [
        pool("main"),
        pool("empty"),
        service("plain"),
        route("main", "main", *rules(to_pool("main"))),
        route("empty", "empty", {"backendRefs": [to_pool("empty")]}),
        route("plain", "plain", *rules(to_service("plain"))),
    ]
    upstreams = {"main": [Upstream("a")], "plain": [Upstream("b")]}
    arguments = ("--max-body-bytes=100000",)
    async with GatewayParts(upstreams, ["main", "empty", "plain"], manifests, arguments, with_policies) as parts:
        yield parts


async def ask(
    gateway: GatewayParts, listener: str, *, content: bytes = BODY, path: str = "/v1/completions", **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await gateway.client.post(gateway.url(listener, path), content=content, headers=named)


async def answered(gateway: GatewayParts, listener: str, status: int, request: dict[str, str]) -> httpx.Response:
    """The response, which has to have this status. The rate limit allows the first request."""
    others = dict(request)
    path = others.pop("path", "/v1/completions")
    if status == 429:
        await ask(gateway, listener, content=BODY, path=path, **others)
    answer = await ask(gateway, listener, content=BODY, path=path, **others)
    assert answer.status_code == status
    return answer


CASES = [
    ({"path": "/slow/", "x_behave": "wait"}, 504, "timeout_error", "response-timeout", "response_timeout"),
    ({"x_secured": "yes"}, 401, "authentication_error", "unauthorized", "jwt_authn_access_denied"),
    ({"x_denied": "yes"}, 403, "permission_error", "forbidden", "rbac_access_denied"),
    ({"x_limited": "yes"}, 429, "rate_limit_error", "rate-limited", "local_rate_limited"),
    ({"x_behave": "reset"}, 503, "service_unavailable_error", "no-endpoint", "The pool has no endpoint"),
]


@pytest.mark.parametrize(("request_", "status", "error_type", "reason", "details"), CASES)
async def test_a_reply_of_envoy_on_a_route_to_a_pool_is_an_openai_error(
    gateway: GatewayParts, request_: dict[str, str], status: int, error_type: str, reason: str, details: str
) -> None:
    answer = await answered(gateway, "main", status, request_)
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == (error_type, None, reason)
    assert details in error["message"]
    assert answer.headers["x-inference-gateway-reason"] == reason


@pytest.mark.parametrize(("request_", "status"), [case[:2] for case in CASES])
async def test_other_routes_keep_the_bodies(gateway: GatewayParts, request_: dict[str, str], status: int) -> None:
    answer = await answered(gateway, "plain", status, request_)
    assert answer.headers["content-type"] == "text/plain"
    assert "x-inference-gateway-reason" not in answer.headers


async def test_the_pickers_own_error_stays(gateway: GatewayParts) -> None:
    answer = await ask(gateway, "main", content=b"{")
    assert answer.json()["error"]["code"] == "body-not-json"
    assert (await ask(gateway, "empty")).json()["error"]["code"] == "no-ready-endpoints"


async def test_an_error_of_the_model_server_stays(gateway: GatewayParts) -> None:
    answer = await ask(gateway, "main", x_behave="fail")
    assert answer.status_code == 500
    assert "x-inference-gateway-reason" not in answer.headers


async def test_a_grpc_call_keeps_its_status_message(gateway: GatewayParts) -> None:
    answer = await ask(gateway, "main", x_secured="yes", content_type="application/grpc")
    assert answer.headers["grpc-message"] == "Jwt is missing"


async def test_too_large_a_body_is_an_openai_error(gateway: GatewayParts) -> None:
    """Far beyond the limit Envoy answers instead of the picker."""
    answer = await ask(gateway, "main", content=b'{"prompt": "' + b"x" * 300_000 + b'"}')
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body-too-large")


@pytest.mark.parametrize("listener", ["main", "plain"])
async def test_the_response_has_the_requests_id(gateway: GatewayParts, listener: str) -> None:
    assert (await ask(gateway, listener)).headers["x-request-id"]
    assert (await ask(gateway, listener, x_request_id="mine")).headers["x-request-id"] == "mine"
