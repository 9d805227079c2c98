"""Stores the gateway's certificates in Secrets, and renews them.

`PICKER-envoy-tls` in the extension's namespace: tls.crt and tls.key for Envoy, ca.crt, and the CA's private key.
`PICKER-tls` in the picker's namespace: tls.crt, tls.key and ca.crt, which the picker's pods mount. `EXTENSION-ca`: the
CA under tls.crt, as Envoy Gateway expects it. `EXTENSION-client-tls`: Envoy Gateway's client certificate for the
extension."""

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import httpx2
import structlog
from lightkube import AsyncClient
from lightkube.resources.core_v1 import Secret
from lightkube.types import PatchType

from picker.bounded_text import shorten
from picker.controller.certificate_authority import TRUSTED, Authorities, advanced
from picker.controller.certificates import EXPIRES_SOON, KeyPair, expiry, is_due, is_for_clients, issue
from picker.resources.names import ObjectName
from picker.sources.api_metrics import API_METRICS
from picker.sources.informer import UNREADABLE
from picker.sources.kubernetes_client import reason_of
from picker.xds.picker_tls import PickerTls

CHECK_S = 3600.0
"""Seconds between two checks of the certificates. There are months between the earliest and the latest time of a
renewal."""

RETRY_S = 2.0
FOLLOW_S, FOLLOW_FIRST_S = 10.0, 0.5
"""Seconds between two reads of what another replica has written; the second value applies until the first
certificate."""

EXTENSION = "inference-gateway-extension"
"""Name of the extension's Service."""

_CERTIFICATE, _KEY, _RENEWALS = "tls.crt", "tls.key", "renewals"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _SecretVersion:
    """The contents of a Secret at one resource version."""

    contents: Mapping[str, bytes]
    version: str


@dataclass(frozen=True, slots=True)
class PickerTlsSecrets:
    """The names of the Secrets, from the picker's Service and the extension's namespace."""

    picker: ObjectName
    extension_namespace: str
    cluster_domain: str

    @property
    def picker_secret(self) -> ObjectName:
        return ObjectName(self.picker.namespace, f"{self.picker.name}-tls")

    @property
    def envoy_secret(self) -> ObjectName:
        return ObjectName(self.extension_namespace, f"{self.picker.name}-envoy-tls")

    @property
    def authority_secret(self) -> ObjectName:
        return ObjectName(self.extension_namespace, f"{EXTENSION}-ca")

    @property
    def client_secret(self) -> ObjectName:
        return ObjectName(self.extension_namespace, f"{EXTENSION}-client-tls")

    @property
    def host(self) -> str:
        return f"{self.picker.name}.{self.picker.namespace}.svc.{self.cluster_domain}"

    @property
    def extension_hosts(self) -> Sequence[str]:
        """The host names under which Envoy Gateway may call the extension."""
        name, namespace = EXTENSION, self.extension_namespace
        short = f"{name}.{namespace}.svc"
        return name, f"{name}.{namespace}", short, f"{short}.{self.cluster_domain}"


@dataclass(frozen=True, slots=True)
class Certificates:
    """The certificates that the extension uses."""

    picker: PickerTls
    """Envoy's client certificate for the picker."""
    server: KeyPair
    """The server certificate of this replica of the extension."""
    trusted: bytes
    """CA certificates for Envoy Gateway's client certificate, in PEM."""
    renewals: int
    """Number of changes of Envoy's certificate or of its CA since the first."""


@dataclass(frozen=True, slots=True)
class _Published:
    """What `follow` reported last."""

    contents: Mapping[str, bytes] | None
    """Contents of Envoy's Secret; None before the first."""
    server: KeyPair | None


class CertificateSecrets:
    """Renews and follows the Secrets. Runs in every replica: none is ready without certificates, so none may wait for
    leader election."""

    def __init__(self, client: AsyncClient, names: PickerTlsSecrets) -> None:
        self._client = client
        self._names = names

    async def keep(self) -> None:
        """Calls `renew` periodically. Runs until cancelled."""
        while True:
            try:
                await self.renew(datetime.now(UTC))
            except (httpx2.HTTPError, OSError, *UNREADABLE) as error:
                API_METRICS.failed("Secret", reason_of(error))
                log.warning("certificates.renew_failed", reason=shorten(str(error).partition("\n")[0]))
                await asyncio.sleep(RETRY_S)
            else:
                await asyncio.sleep(CHECK_S)

    async def follow(self, changed: Callable[[Certificates], None]) -> None:
        """Calls `changed` with the current certificates, and after each renewal. Runs until cancelled."""
        published = _Published(None, None)
        while True:
            try:
                contents = (await self._read(self._names.envoy_secret)).contents
                published = self._publish_if_new(contents, published, changed)
            except (httpx2.HTTPError, OSError, *UNREADABLE) as error:
                # The last certificates remain in use.
                API_METRICS.failed("Secret", reason_of(error))
                log.warning("certificates.read_failed", reason=shorten(str(error).partition("\n")[0]))
            await asyncio.sleep(FOLLOW_S if published.contents is not None else FOLLOW_FIRST_S)

    def _publish_if_new(
        self, contents: Mapping[str, bytes], published: "_Published", changed: Callable[[Certificates], None]
    ) -> "_Published":
        """Reports the Secret's certificates if they are new, and returns what is reported. A CA that cannot sign is
        skipped: `keep` replaces it."""
        current = Authorities.of(contents)
        if current is None or not current.issuer.key or not {_CERTIFICATE, _KEY} <= contents.keys():
            return published
        now, server = datetime.now(UTC), published.server
        if server is None or not current.has_issued(server.certificate) or is_due(server.certificate, now):
            server = issue(current.issuer, EXTENSION, self._names.extension_hosts, now)
        elif contents == published.contents:
            return published
        _warn_of_expiry(contents[_CERTIFICATE], current.signing.certificate, now)
        tls = PickerTls(self._names.picker, current.bundle, contents[_CERTIFICATE], contents[_KEY])
        changed(Certificates(tls, server, current.bundle, _renewals(contents)))
        return _Published(contents, server)

    async def renew(self, now: datetime) -> None:
        """Creates missing certificates and renews those that are due. Raises httpx2.HTTPError."""
        secret = await self._read(self._names.envoy_secret)
        current = Authorities.of(secret.contents)
        authorities = advanced(current, now)
        envoy = _leaf(secret.contents, authorities, "envoy", (), now)
        if current != authorities or envoy is not None:
            # The CA is written first: a certificate that another replica issued by another CA is issued again below.
            changes = {**authorities.contents(), **(_contents(envoy) if envoy is not None else {})}
            if current is not None:
                changes[_RENEWALS] = str(_renewals(secret.contents) + 1).encode()
            await self._write(self._names.envoy_secret, secret.version, changes)
        bundle = authorities.bundle
        await self._write_if_changed(self._names.authority_secret, {_CERTIFICATE: bundle})
        for name, common_name, hosts, is_peer, extra in (
            (self._names.picker_secret, self._names.picker.name, (self._names.host,), True, {TRUSTED: bundle}),
            (self._names.client_secret, "envoy-gateway", (), False, {}),
        ):
            secret_version = await self._read(name)
            leaf = _leaf(secret_version.contents, authorities, common_name, hosts, now, is_peer=is_peer)
            expected = {**extra, **(_contents(leaf) if leaf is not None else {})}
            await self._write_if_changed(name, expected, secret_version)

    async def _write_if_changed(
        self, name: ObjectName, expected: Mapping[str, bytes], secret_version: _SecretVersion | None = None
    ) -> None:
        """Writes `expected` if the Secret differs."""
        secret_version = secret_version or await self._read(name)
        if any(secret_version.contents.get(key) != value for key, value in expected.items()):
            await self._write(name, secret_version.version, expected)

    async def _read(self, name: ObjectName) -> _SecretVersion:
        secret = await self._client.get(Secret, name.name, namespace=name.namespace)
        contents = cast(dict[str, str], secret.data or {})  # pyright: ignore[reportUnknownMemberType]
        assert secret.metadata is not None
        return _SecretVersion(
            {key: base64.b64decode(value) for key, value in contents.items()}, secret.metadata.resourceVersion or ""
        )

    async def _write(self, name: ObjectName, version: str, contents: Mapping[str, bytes]) -> None:
        data = {key: base64.b64encode(value).decode() for key, value in contents.items()}
        # The patch only fills the Secret: the release creates and deletes it. It has the version that was read: if two
        # replicas renew at once, one is rejected and retries.
        await self._client.patch(  # pyright: ignore[reportUnknownMemberType]
            Secret,
            name.name,
            {"metadata": {"resourceVersion": version}, "data": data},
            namespace=name.namespace,
            patch_type=PatchType.MERGE,
        )
        log.info("certificates.renewed", secret=str(name))


def _leaf(
    contents: Mapping[str, bytes],
    authorities: Authorities,
    common_name: str,
    hosts: Sequence[str],
    now: datetime,
    *,
    is_peer: bool = False,
) -> KeyPair | None:
    """Returns a new certificate if the one in `contents` is not valid; else None."""
    certificate = contents.get(_CERTIFICATE, b"")
    is_valid = contents.get(_KEY) and authorities.has_issued(certificate) and not is_due(certificate, now)
    # Earlier releases issued certificates of pickers that are for servers only.
    if is_valid and (not is_peer or is_for_clients(certificate)):
        return None
    return issue(authorities.issuer, common_name, hosts, now, is_peer=is_peer)


def _contents(key_pair: KeyPair) -> Mapping[str, bytes]:
    return {_CERTIFICATE: key_pair.certificate, _KEY: key_pair.key}


def _renewals(contents: Mapping[str, bytes]) -> int:
    text = contents.get(_RENEWALS, b"0")
    return int(text) if text.isdigit() else 0


def _warn_of_expiry(envoy: bytes, authority: bytes, now: datetime) -> None:
    for name, certificate in (("envoy", envoy), ("authority", authority)):
        end = expiry(certificate)
        if end is None or end - now < EXPIRES_SOON:
            log.warning("certificates.expire_soon", certificate=name, expires=end.isoformat() if end else None)
