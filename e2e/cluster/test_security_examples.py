"""The policies of docs/security.md, applied unchanged."""

import base64
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from clusters import ROOT
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from releases import PICKED, PLAIN, Release
from waits import until

EXAMPLES = ROOT / "docs" / "examples"


@contextmanager
def applied(release: Release, name: str) -> Iterator[None]:
    """Applies an example. Deletes it at the end, and waits until both ports serve without it."""
    file = str(EXAMPLES / f"{name}.yaml")
    release.cluster.kubectl("apply", "-f", file)
    try:
        yield
    finally:
        release.cluster.kubectl("delete", "-f", file)
        for port in (PLAIN, PICKED):
            release.wait_until_serving(port)


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(key: rsa.RSAPrivateKey, claims: Mapping[str, Any]) -> str:
    """A JWT, signed with RS256."""
    parts = [base64url(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "one"}, claims)]
    signature = key.sign(".".join(parts).encode(), padding.PKCS1v15(), hashes.SHA256())
    return ".".join([*parts, base64url(signature)])


def keys_of(key: rsa.RSAPrivateKey) -> str:
    """The JWKS with the public key."""
    numbers = key.public_key().public_numbers()
    parts = {
        name: base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))
        for name, value in (("n", numbers.n), ("e", numbers.e))
    }
    return json.dumps({"keys": [{"kty": "RSA", "kid": "one", "alg": "RS256", "use": "sig", **parts}]})


@pytest.mark.parametrize("port", [PLAIN, PICKED])
def test_with_api_keys_only_clients_with_one_are_served(release: Release, port: int) -> None:
    """The key is in the header that OpenAI's clients send."""
    with applied(release, "api-keys"):
        until(lambda: release.chat_status(port) == 401, "a request without a key is rejected")
        assert release.chat_status(port, headers={"authorization": "Bearer guessed"}) == 401
        rejected = httpx.post(f"{release.urls[port]}/v1/chat/completions", json={}, timeout=30)
        # Only routes to pools have OpenAI's error format.
        assert rejected.headers.get("x-inference-gateway-reason") == ("unauthorized" if port == PICKED else None)
        right = {"authorization": "Bearer replace-this-key-of-team-a"}
        until(lambda: release.chat_status(port, headers=right) == 200, "a request with a key is served")


@pytest.mark.parametrize("port", [PLAIN, PICKED])
def test_with_tokens_only_clients_with_a_valid_one_are_served(release: Release, port: int) -> None:
    """A valid token is signed by the provider, for this audience, and not expired."""
    key, other = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    metadata = {"name": "idp-keys", "namespace": "default"}
    release.cluster.apply(
        [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"jwks": keys_of(key)}}]
    )
    claims = {"iss": "https://idp.example.com", "aud": "inference", "sub": "team-a", "exp": int(time.time()) + 600}
    try:
        with applied(release, "jwt"):
            until(lambda: release.chat_status(port) == 401, "a request without a token is rejected")
            right = {"authorization": f"Bearer {token(key, claims)}"}
            until(lambda: release.chat_status(port, headers=right) == 200, "a request with a token is served")
            for signer, wrong in (
                (other, claims), (key, {**claims, "exp": 1}), (key, {**claims, "aud": "else"}),
            ):  # fmt: skip
                status = release.chat_status(port, headers={"authorization": f"Bearer {token(signer, wrong)}"})
                assert status in (401, 403)
    finally:
        release.cluster.kubectl("delete", "configmap", "idp-keys", "-n", "default")


def test_requests_over_the_rate_limit_are_rejected_with_429(release: Release) -> None:
    """Requests within the limit are served."""
    with applied(release, "rate-limit"):

        def statuses() -> set[int]:
            with httpx.Client(base_url=release.urls[PICKED], timeout=30) as client:
                return {client.get("/v1/models").status_code for _ in range(60)}

        until(lambda: statuses() == {200, 429}, "some of sixty requests in a row are rejected")


def test_the_gateway_serves_with_the_client_traffic_policy(release: Release) -> None:
    """Envoy Gateway accepts the policy."""
    with applied(release, "clients"):

        def accepted() -> bool:
            status = release.cluster.get("clienttrafficpolicy", "clients", "-n", "default").get("status", {})
            conditions = [condition for entry in status.get("ancestors", []) for condition in entry["conditions"]]
            return ("Accepted", "True") in [(condition["type"], condition["status"]) for condition in conditions]

        until(accepted, "the policy is accepted")
        for port in (PLAIN, PICKED):
            release.wait_until_serving(port)
