"""Certificates of the connection between Envoy and the picker."""

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
from picker.controller.certificates import (
    AUTHORITY_LIFE,
    LIFE,
    KeyPair,
    is_due,
    is_for_clients,
    issue,
    new_authority,
)
from picker.resources.names import ObjectName

NOW = datetime.now(UTC)
HOST = "picker.ai.svc.cluster.local"
NAMES = PickerTlsSecrets(ObjectName("ai", "picker"), "system", "cluster.local")


def handshake(authority: KeyPair, server: KeyPair, client: KeyPair | None, folder: Path) -> None:
    """Performs a TLS handshake in memory. Raises ssl.SSLError."""
    for name, key_pair in (("server", server), ("client", client)):
        if key_pair is not None:
            (folder / name).write_bytes(key_pair.certificate + key_pair.key)
    trusted = authority.certificate.decode()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.maximum_version = ssl.TLSVersion.TLSv1_2
    server_context.load_cert_chain(folder / "server")
    server_context.load_verify_locations(cadata=trusted)
    server_context.verify_mode = ssl.CERT_REQUIRED
    client_context = ssl.create_default_context(cadata=trusted)
    if client is not None:
        client_context.load_cert_chain(folder / "client")
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        server_context.wrap_bio(to_client, to_server, server_side=True),
        client_context.wrap_bio(to_server, to_client, server_hostname=HOST),
    ]
    for _ in range(6):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert sides[0].getpeercert()


def test_certificates_of_one_ca_are_accepted(tmp_path: Path) -> None:
    """The client verifies the server's host name."""
    authority = new_authority(NOW)
    handshake(authority, issue(authority, "picker", [HOST], NOW), issue(authority, "envoy", [], NOW), tmp_path)


def test_pickers_accept_each_other_as_clients(tmp_path: Path) -> None:
    authority = new_authority(NOW)
    picker = issue(authority, "picker", [HOST], NOW, is_peer=True)
    handshake(authority, picker, picker, tmp_path)


@pytest.mark.parametrize("client", ["none", "of another authority", "a server's"])
def test_client_without_a_client_certificate_is_rejected(client: str, tmp_path: Path) -> None:
    """It has none, one of another CA, or a server's."""
    authority, other = new_authority(NOW), new_authority(NOW)
    certificates = {
        "none": None,
        "of another authority": issue(other, "envoy", [], NOW),
        "a server's": issue(authority, "envoy", ["envoy"], NOW),
    }
    with pytest.raises(ssl.SSLError):
        handshake(authority, issue(authority, "picker", [HOST], NOW), certificates[client], tmp_path)


def test_certificate_is_due_after_two_thirds_of_its_lifetime() -> None:
    """An invalid certificate is due at once."""
    certificate = issue(new_authority(NOW), "envoy", [], NOW).certificate
    assert not is_due(certificate, NOW)
    assert not is_due(certificate, NOW + LIFE * 0.6)
    assert is_due(certificate, NOW + LIFE * 0.7)
    assert is_due(b"", NOW)


class Api:
    """A fake API server with empty Secrets."""

    def __init__(self) -> None:
        self.secrets: dict[str, dict[str, str]] = {
            "ai/picker-tls": {},
            "system/picker-envoy-tls": {},
            "system/inference-gateway-extension-ca": {},
            "system/inference-gateway-extension-client-tls": {},
        }
        self.writes: list[str] = []

    async def get(self, _kind: object, name: str, namespace: str) -> Secret:
        contents = self.secrets[f"{namespace}/{name}"]
        return Secret(metadata=ObjectMeta(name=name, resourceVersion=str(len(self.writes))), data=dict(contents))

    async def patch(self, _kind: object, name: str, changes: Any, namespace: str, patch_type: object) -> None:
        self.secrets[f"{namespace}/{name}"] |= changes["data"]
        self.writes.append(name)

    def pem(self, secret: str, key: str) -> bytes:
        return base64.b64decode(self.secrets[secret][key])


def secrets(api: Api) -> CertificateSecrets:
    return CertificateSecrets(cast(AsyncClient, cast(Any, api)), NAMES)


@pytest.mark.looptime
async def test_empty_secrets_are_filled_and_reported() -> None:
    """The CA's private key is only in the extension's namespace."""
    api = Api()
    reported: list[Certificates] = []
    store = secrets(api)
    tasks = [asyncio.create_task(store.follow(reported.append)), asyncio.create_task(store.keep())]
    await asyncio.sleep(2 * CHECK_S)
    for task in tasks:
        task.cancel()
    [certificates] = reported
    assert certificates.picker.service == NAMES.picker
    assert certificates.picker.authority == certificates.trusted == api.pem("ai/picker-tls", "ca.crt")
    assert api.pem("system/inference-gateway-extension-ca", "tls.crt") == certificates.trusted
    assert certificates.renewals == 0
    assert "ca.key" in api.secrets["system/picker-envoy-tls"]
    assert "ca.key" not in api.secrets["ai/picker-tls"]


async def test_only_due_certificates_are_renewed() -> None:
    """Certificates are due before their CA."""
    api = Api()
    store = secrets(api)
    await store.renew(NOW)
    first = dict(api.secrets["ai/picker-tls"])
    await store.renew(NOW + timedelta(days=1))
    assert api.secrets["ai/picker-tls"] == first
    await store.renew(NOW + LIFE * 0.7)
    second = dict(api.secrets["ai/picker-tls"])
    assert second["tls.crt"] != first["tls.crt"]
    assert second["ca.crt"] == first["ca.crt"]
    await store.renew(NOW + AUTHORITY_LIFE * 0.7)
    assert api.secrets["ai/picker-tls"]["ca.crt"] != first["ca.crt"]
    assert api.secrets["ai/picker-tls"]["ca.crt"] == api.secrets["system/picker-envoy-tls"]["ca.crt"]


async def test_picker_certificate_for_servers_only_is_issued_again() -> None:
    """Earlier releases issued such certificates. Pickers must be clients of each other."""
    api = Api()
    await secrets(api).renew(NOW)
    held = api.secrets["system/picker-envoy-tls"]
    authority = KeyPair(base64.b64decode(held["ca.crt"]), base64.b64decode(held["ca.key"]))
    old = issue(authority, "picker", [HOST], NOW)
    api.secrets["ai/picker-tls"] |= {
        "tls.crt": base64.b64encode(old.certificate).decode(),
        "tls.key": base64.b64encode(old.key).decode(),
    }
    await secrets(api).renew(NOW)
    assert api.pem("ai/picker-tls", "tls.crt") != old.certificate
    assert is_for_clients(api.pem("ai/picker-tls", "tls.crt"))


@pytest.mark.parametrize("reason", ["it is due", "its key is removed"])
async def test_old_and_new_secrets_are_compatible_during_ca_rotation(reason: str) -> None:
    """Either side may read its Secret first."""
    api = Api()
    store = secrets(api)
    await store.renew(NOW)
    now = NOW
    if reason == "it is due":
        now = NOW + AUTHORITY_LIFE * 0.7
    else:
        api.secrets["system/picker-envoy-tls"]["ca.key"] = ""
    first = api.pem("ai/picker-tls", "ca.crt")
    trusted: list[int] = []
    for step in range(4):
        before = {name: dict(contents) for name, contents in api.secrets.items()}
        await store.renew(now + step * OVERLAP * 1.01)
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
    """Raises InvalidSignature if no certificate of the bundle has signed `certificate`."""
    leaf = x509.load_pem_x509_certificate(certificate)
    issuers = x509.load_pem_x509_certificates(bundle)
    aki = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    [issuer] = [
        certificate
        for certificate in issuers
        if certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest == aki
    ]
    leaf.verify_directly_issued_by(issuer)


async def test_certificate_of_another_ca_is_issued_again() -> None:
    """Two replicas that started at once may have written one Secret each."""
    api, other = Api(), Api()
    await secrets(api).renew(NOW)
    await secrets(other).renew(NOW)
    api.secrets["ai/picker-tls"] = other.secrets["ai/picker-tls"]
    await secrets(api).renew(NOW)
    assert api.pem("ai/picker-tls", "ca.crt") == api.pem("system/picker-envoy-tls", "ca.crt")


@pytest.mark.looptime
@pytest.mark.parametrize(
    "invalid",
    [
        {"ca.key": ""},
        {"ca.key": base64.b64encode(b"no key").decode()},
        {"ca.crt": base64.b64encode(b"-----BEGIN CERTIFICATE-----\nno\n").decode()},
        {"tls.crt": base64.b64encode(b"\xff").decode(), "tls.key": ""},
        {"ca.crt": "no base64!", "ca.key": "no base64!"},
        {"ca.changed": base64.b64encode(b"\xff\xfe").decode(), "ca.renewals": base64.b64encode(b"many").decode()},
    ],
    ids=lambda invalid: ",".join(invalid),
)
async def test_invalid_secret_does_not_end_the_process(invalid: dict[str, str]) -> None:
    """The last certificates remain in use until the Secret is valid again. A replica that starts meanwhile waits."""
    api, reported = Api(), list[Certificates]()
    store = secrets(api)
    await store.renew(NOW)
    valid = dict(api.secrets["system/picker-envoy-tls"])
    api.secrets["system/picker-envoy-tls"] |= invalid
    tasks = [asyncio.create_task(store.follow(reported.append)), asyncio.create_task(store.keep())]
    await asyncio.sleep(60)
    assert [task.done() for task in tasks] == [False, False]
    api.secrets["system/picker-envoy-tls"] = valid
    await asyncio.sleep(60)
    assert reported
    for task in tasks:
        task.cancel()
