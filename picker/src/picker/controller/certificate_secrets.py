"""Keeps the certificates of the gateway's own links in Secrets, and renews them.

`PICKER-envoy-tls` beside the extension: tls.crt and tls.key for Envoy, ca.crt, and the authority's key. `PICKER-tls`
beside the picker: tls.crt, tls.key and ca.crt, which the picker's pods mount. `EXTENSION-ca`: the authority as Envoy
Gateway wants it, under tls.crt. `EXTENSION-client-tls`: what Envoy Gateway shows to the extension."""

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
from picker.controller.certificates import EXPIRES_SOON, KeyPair, expiry, is_due, issue
from picker.resources.names import ObjectName
from picker.sources.api_metrics import API_METRICS
from picker.sources.informer import UNREADABLE
from picker.sources.kubernetes_client import reason_of
from picker.xds.picker_tls import PickerTls

CHECK_S = 3600.0
"""Between two looks at the certificates: months pass between a renewal's first chance and its last."""

RETRY_S = 2.0
FOLLOW_S, FOLLOW_FIRST_S = 10.0, 0.5
"""Between two looks for what another replica has written, and until there is something to see."""

EXTENSION = "inference-gateway-extension"
"""The extension's Service."""

_CERTIFICATE, _KEY, _RENEWALS = "tls.crt", "tls.key", "renewals"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Read:
    """A Secret as it was."""

    contents: Mapping[str, bytes]
    version: str


@dataclass(frozen=True, slots=True)
class PickerTlsSecrets:
    """The picker's Service, and where the extension is."""

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
        """The names by which Envoy Gateway may call the extension."""
        name, namespace = EXTENSION, self.extension_namespace
        short = f"{name}.{namespace}.svc"
        return name, f"{name}.{namespace}", short, f"{short}.{self.cluster_domain}"


@dataclass(frozen=True, slots=True)
class Certificates:
    """What the extension needs of the Secrets."""

    picker: PickerTls
    """What Envoy shows to the picker."""
    server: KeyPair
    """What this replica of the extension shows to Envoy Gateway."""
    trusted: bytes
    """Who may have signed what Envoy Gateway shows, PEM."""
    renewals: int
    """How often Envoy's certificate, or what it trusts, has changed since the first."""


@dataclass(frozen=True, slots=True)
class _Used:
    """What `follow` passed on last."""

    contents: Mapping[str, bytes] | None
    """Of Envoy's Secret; None before the first."""
    server: KeyPair | None


class CertificateSecrets:
    """Runs in every replica: none is ready without certificates, so none may wait to be elected for them."""

    def __init__(self, client: AsyncClient, link: PickerTlsSecrets) -> None:
        self._client = client
        self._link = link

    async def keep(self) -> None:
        """Call `renew` for as long as the process runs."""
        while True:
            try:
                await self.renew(datetime.now(UTC))
            except (httpx2.HTTPError, OSError, *UNREADABLE) as error:
                API_METRICS.failed("Secret", reason_of(error))
                log.warning("certificates.not_kept", reason=shorten(str(error).partition("\n")[0]))
                await asyncio.sleep(RETRY_S)
            else:
                await asyncio.sleep(CHECK_S)

    async def follow(self, changed: Callable[[Certificates], None]) -> None:
        """Call `changed` with what is to be used, now and after each renewal."""
        used = _Used(None, None)
        while True:
            try:
                contents = (await self._read(self._link.envoy_secret)).contents
                used = self._use(contents, used, changed)
            except (httpx2.HTTPError, OSError, *UNREADABLE) as error:
                # What was used before is still used.
                API_METRICS.failed("Secret", reason_of(error))
                log.warning("certificates.not_read", reason=shorten(str(error).partition("\n")[0]))
            await asyncio.sleep(FOLLOW_S if used.contents is not None else FOLLOW_FIRST_S)

    def _use(self, contents: Mapping[str, bytes], used: "_Used", changed: Callable[[Certificates], None]) -> "_Used":
        """What is used after a look at the Secret. An authority that cannot sign is waited for: `keep` replaces it."""
        held = Authorities.of(contents)
        if held is None or not held.issuer.key or not {_CERTIFICATE, _KEY} <= contents.keys():
            return used
        now, server = datetime.now(UTC), used.server
        if server is None or not held.has_issued(server.certificate) or is_due(server.certificate, now):
            server = issue(held.issuer, EXTENSION, self._link.extension_hosts, now)
        elif contents == used.contents:
            return used
        _warn_of_expiry(contents[_CERTIFICATE], held.signing.certificate, now)
        tls = PickerTls(self._link.picker, held.bundle, contents[_CERTIFICATE], contents[_KEY])
        changed(Certificates(tls, server, held.bundle, _renewals(contents)))
        return _Used(contents, server)

    async def renew(self, now: datetime) -> None:
        """Make what is missing and renew what is due. Raises httpx2.HTTPError."""
        secret = await self._read(self._link.envoy_secret)
        held = Authorities.of(secret.contents)
        authorities = advanced(held, now)
        envoy = _leaf(secret.contents, authorities, "envoy", (), now)
        if held != authorities or envoy is not None:
            # The authority first: what another replica has issued by a stranger is issued again below.
            changes = {**authorities.contents(), **(_contents(envoy) if envoy is not None else {})}
            if held is not None:
                changes[_RENEWALS] = str(_renewals(secret.contents) + 1).encode()
            await self._write(self._link.envoy_secret, secret.version, changes)
        bundle = authorities.bundle
        await self._keep(self._link.authority_secret, {_CERTIFICATE: bundle})
        for name, common_name, hosts, also in (
            (self._link.picker_secret, self._link.picker.name, (self._link.host,), {TRUSTED: bundle}),
            (self._link.client_secret, "envoy-gateway", (), {}),
        ):
            read = await self._read(name)
            made = _leaf(read.contents, authorities, common_name, hosts, now)
            wanted = {**also, **(_contents(made) if made is not None else {})}
            await self._keep(name, wanted, read)

    async def _keep(self, name: ObjectName, wanted: Mapping[str, bytes], read: _Read | None = None) -> None:
        """Write `wanted` where the Secret says otherwise."""
        read = read or await self._read(name)
        if any(read.contents.get(key) != value for key, value in wanted.items()):
            await self._write(name, read.version, wanted)

    async def _read(self, name: ObjectName) -> _Read:
        secret = await self._client.get(Secret, name.name, namespace=name.namespace)
        contents = cast(dict[str, str], secret.data or {})  # pyright: ignore[reportUnknownMemberType]
        assert secret.metadata is not None
        return _Read(
            {key: base64.b64decode(value) for key, value in contents.items()}, secret.metadata.resourceVersion or ""
        )

    async def _write(self, name: ObjectName, version: str, contents: Mapping[str, bytes]) -> None:
        data = {key: base64.b64encode(value).decode() for key, value in contents.items()}
        # Only filled: the release brings the Secret, and takes it away. With the version that was read: of two replicas
        # that renew at once one is refused, and looks again.
        await self._client.patch(  # pyright: ignore[reportUnknownMemberType]
            Secret,
            name.name,
            {"metadata": {"resourceVersion": version}, "data": data},
            namespace=name.namespace,
            patch_type=PatchType.MERGE,
        )
        log.info("certificates.renewed", secret=str(name))


def _leaf(
    contents: Mapping[str, bytes], authorities: Authorities, common_name: str, hosts: Sequence[str], now: datetime
) -> KeyPair | None:
    """A certificate in place of the one in `contents`; None where that is good."""
    certificate = contents.get(_CERTIFICATE, b"")
    if contents.get(_KEY) and authorities.has_issued(certificate) and not is_due(certificate, now):
        return None
    return issue(authorities.issuer, common_name, hosts, now)


def _contents(identity: KeyPair) -> Mapping[str, bytes]:
    return {_CERTIFICATE: identity.certificate, _KEY: identity.key}


def _renewals(contents: Mapping[str, bytes]) -> int:
    text = contents.get(_RENEWALS, b"0")
    return int(text) if text.isdigit() else 0


def _warn_of_expiry(envoy: bytes, authority: bytes, now: datetime) -> None:
    for name, certificate in (("envoy", envoy), ("authority", authority)):
        end = expiry(certificate)
        if end is None or end - now < EXPIRES_SOON:
            log.warning("certificates.expire_soon", certificate=name, expires=end.isoformat() if end else None)
