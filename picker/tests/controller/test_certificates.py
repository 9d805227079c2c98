"""Certificates for the link between Envoy and the picker."""

import asyncio
import base64
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from lightkube import AsyncClient
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Secret
from picker.controller.certificate_authority import OVERLAP
from picker.controller.certificate_secrets import CHECK_S, Certificates, CertificateSecrets, PickerTlsSecrets
from picker.controller.certificates import AUTHORITY_LIFE, LIFE, KeyPair, is_due, issue, new_authority
from picker.resources.names import ObjectName

NOW = datetime.now(UTC)
HOST = "picker.ai.svc.cluster.local"
LINK = PickerTlsSecrets(ObjectName("ai", "picker"), "system", "cluster.local")


def handshake(authority: KeyPair, server: KeyPair, client: KeyPair | None, folder: Path) -> None:
    """Between the two in memory. Raises ssl.SSLError."""
    for name, identity in (("server", server), ("client", client)):
        if identity is not None:
            (folder / name).write_bytes(identity.certificate + identity.key)
    trusted = authority.certificate.decode()
    accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accepting.maximum_version = ssl.TLSVersion.TLSv1_2
    accepting.load_cert_chain(folder / "server")
    accepting.load_verify_locations(cadata=trusted)
    accepting.verify_mode = ssl.CERT_REQUIRED
    asking = ssl.create_default_context(cadata=trusted)
    if client is not None:
        asking.load_cert_chain(folder / "client")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [accepting.wrap_bio(there, back, server_side=True), asking.wrap_bio(back, there, server_hostname=HOST)]
    for _ in range(6):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert sides[0].getpeercert()


def test_both_sides_know_each_other_by_the_authority(tmp_path: Path) -> None:
    """The server by its name."""
    authority = new_authority(NOW)
    handshake(authority, issue(authority, "picker", [HOST], NOW), issue(authority, "envoy", [], NOW), tmp_path)


@pytest.mark.parametrize("client", ["none", "of another authority", "a server's"])
def test_a_client_without_a_certificate_for_clients_is_refused(client: str, tmp_path: Path) -> None:
    """Whichever it has instead."""
    authority, other = new_authority(NOW), new_authority(NOW)
    shown = {
        "none": None,
        "of another authority": issue(other, "envoy", [], NOW),
        "a server's": issue(authority, "envoy", ["envoy"], NOW),
    }
    with pytest.raises(ssl.SSLError):
        handshake(authority, issue(authority, "picker", [HOST], NOW), shown[client], tmp_path)


def test_a_certificate_is_due_at_two_thirds_of_its_life() -> None:
    """What is no certificate is due at once."""
    certificate = issue(new_authority(NOW), "envoy", [], NOW).certificate
    assert not is_due(certificate, NOW)
    assert not is_due(certificate, NOW + LIFE * 0.6)
    assert is_due(certificate, NOW + LIFE * 0.7)
    assert is_due(b"", NOW)


class Api:
    """Keeps Secrets, empty at first."""

    def __init__(self) -> None:
        self.secrets: dict[str, dict[str, str]] = {
            "ai/picker-tls": {},
            "system/picker-envoy-tls": {},
            "system/inference-gateway-extension-ca": {},
            "system/inference-gateway-extension-client-tls": {},
        }
        self.writes: list[str] = []

    async def get(self, _kind: object, name: str, namespace: str) -> Secret:
        held = self.secrets[f"{namespace}/{name}"]
        return Secret(metadata=ObjectMeta(name=name, resourceVersion=str(len(self.writes))), data=dict(held))

    async def patch(self, _kind: object, name: str, changes: Any, namespace: str, patch_type: object) -> None:
        self.secrets[f"{namespace}/{name}"] |= changes["data"]
        self.writes.append(name)

    def pem(self, secret: str, key: str) -> bytes:
        return base64.b64decode(self.secrets[secret][key])


def secrets(api: Api) -> CertificateSecrets:
    return CertificateSecrets(cast(AsyncClient, cast(Any, api)), LINK)


@pytest.mark.looptime
async def test_empty_secrets_are_filled_and_told() -> None:
    """The authority's key stays with the extension."""
    api = Api()
    told: list[Certificates] = []
    kept = secrets(api)
    tasks = [asyncio.create_task(kept.follow(told.append)), asyncio.create_task(kept.keep())]
    await asyncio.sleep(2 * CHECK_S)
    for task in tasks:
        task.cancel()
    [certificates] = told
    assert certificates.picker.service == LINK.picker
    assert certificates.picker.authority == certificates.trusted == api.pem("ai/picker-tls", "ca.crt")
    assert api.pem("system/inference-gateway-extension-ca", "tls.crt") == certificates.trusted
    assert certificates.renewals == 0
    assert "ca.key" in api.secrets["system/picker-envoy-tls"]
    assert "ca.key" not in api.secrets["ai/picker-tls"]


async def test_what_is_due_is_renewed_and_the_rest_stays() -> None:
    """Certificates before their authority."""
    api = Api()
    kept = secrets(api)
    await kept.renew(NOW)
    first = dict(api.secrets["ai/picker-tls"])
    await kept.renew(NOW + timedelta(days=1))
    assert api.secrets["ai/picker-tls"] == first
    await kept.renew(NOW + LIFE * 0.7)
    second = dict(api.secrets["ai/picker-tls"])
    assert second["tls.crt"] != first["tls.crt"]
    assert second["ca.crt"] == first["ca.crt"]
    await kept.renew(NOW + AUTHORITY_LIFE * 0.7)
    assert api.secrets["ai/picker-tls"]["ca.crt"] != first["ca.crt"]
    assert api.secrets["ai/picker-tls"]["ca.crt"] == api.secrets["system/picker-envoy-tls"]["ca.crt"]


@pytest.mark.parametrize("reason", ["it is due", "its key is removed"])
async def test_at_each_step_to_a_new_authority_old_and_new_secrets_fit_together(reason: str) -> None:
    """Whichever side reads its Secret first."""
    api = Api()
    kept = secrets(api)
    await kept.renew(NOW)
    now = NOW
    if reason == "it is due":
        now = NOW + AUTHORITY_LIFE * 0.7
    else:
        api.secrets["system/picker-envoy-tls"]["ca.key"] = ""
    first = api.pem("ai/picker-tls", "ca.crt")
    trusted: list[int] = []
    for step in range(4):
        before = {name: dict(held) for name, held in api.secrets.items()}
        await kept.renew(now + step * OVERLAP * 1.01)
        older = Api()
        older.secrets = before
        for picker, envoy in ((api, older), (older, api), (api, api)):
            is_trusted(picker.pem("ai/picker-tls", "ca.crt"), envoy.pem("system/picker-envoy-tls", "tls.crt"))
            is_trusted(envoy.pem("system/picker-envoy-tls", "ca.crt"), picker.pem("ai/picker-tls", "tls.crt"))
        trusted.append(api.pem("ai/picker-tls", "ca.crt").count(b"BEGIN"))
    assert trusted == [2, 2, 1, 1]
    assert api.pem("ai/picker-tls", "ca.crt") != first
    assert api.pem("system/picker-envoy-tls", "renewals") == b"3"


def is_trusted(bundle: bytes, certificate: bytes) -> None:
    """Raises InvalidSignature where none of the bundle has signed it."""
    leaf = x509.load_pem_x509_certificate(certificate)
    issuers = x509.load_pem_x509_certificates(bundle)
    aki = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    [issuer] = [
        each
        for each in issuers
        if each.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest == aki
    ]
    leaf.verify_directly_issued_by(issuer)


async def test_what_an_older_authority_has_issued_is_issued_anew() -> None:
    """Two replicas that began at once may have written one Secret each."""
    api, other = Api(), Api()
    await secrets(api).renew(NOW)
    await secrets(other).renew(NOW)
    api.secrets["ai/picker-tls"] = other.secrets["ai/picker-tls"]
    await secrets(api).renew(NOW)
    assert api.pem("ai/picker-tls", "ca.crt") == api.pem("system/picker-envoy-tls", "ca.crt")


@pytest.mark.looptime
@pytest.mark.parametrize(
    "spoiled",
    [
        {"ca.key": ""},
        {"ca.key": base64.b64encode(b"no key").decode()},
        {"ca.crt": base64.b64encode(b"-----BEGIN CERTIFICATE-----\nno\n").decode()},
        {"tls.crt": base64.b64encode(b"\xff").decode(), "tls.key": ""},
        {"ca.crt": "no base64!", "ca.key": "no base64!"},
        {"ca.changed": base64.b64encode(b"\xff\xfe").decode(), "ca.renewals": base64.b64encode(b"many").decode()},
    ],
    ids=lambda spoiled: ",".join(spoiled),
)
async def test_a_spoiled_secret_does_not_end_the_process(spoiled: dict[str, str]) -> None:
    """What was used is used until the Secret is whole again; a replica that starts meanwhile waits for that."""
    api, used = Api(), list[Certificates]()
    kept = secrets(api)
    await kept.renew(NOW)
    whole = dict(api.secrets["system/picker-envoy-tls"])
    api.secrets["system/picker-envoy-tls"] |= spoiled
    tasks = [asyncio.create_task(kept.follow(used.append)), asyncio.create_task(kept.keep())]
    await asyncio.sleep(60)
    assert [task.done() for task in tasks] == [False, False]
    api.secrets["system/picker-envoy-tls"] = whole
    await asyncio.sleep(60)
    assert used
    for task in tasks:
        task.cancel()
