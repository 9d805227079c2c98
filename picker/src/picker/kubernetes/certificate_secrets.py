"""Keeps the certificates of the link between Envoy and the picker in Secrets, and renews them.

`NAME-tls` beside the picker: tls.crt, tls.key and ca.crt, which the picker's pods mount. `NAME-envoy-tls` beside the
extension: the same for Envoy's side, and the authority's key."""

import asyncio
import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import httpx2
import structlog
from lightkube import AsyncClient
from lightkube.resources.core_v1 import Secret
from lightkube.types import PatchType

from picker.gateway.picker_tls import PickerTls
from picker.kubernetes.certificates import Identity, is_due, issue, new_authority
from picker.resources.names import ObjectName

CHECK_S = 3600.0
"""Between two looks at the certificates: months pass between a renewal's first chance and its last."""

RETRY_S = 2.0
FOLLOW_S, FOLLOW_FIRST_S = 60.0, 0.5
"""Between two looks for what another replica has written, and until there is something to see."""

_CERTIFICATE, _KEY, _AUTHORITY, _AUTHORITY_KEY = "tls.crt", "tls.key", "ca.crt", "ca.key"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Read:
    """A Secret as it was."""

    contents: Mapping[str, bytes]
    version: str


@dataclass(frozen=True, slots=True)
class Link:
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
    def host(self) -> str:
        return f"{self.picker.name}.{self.picker.namespace}.svc.{self.cluster_domain}"


class CertificateSecrets:
    """Runs in every replica: none is ready without certificates, so none may wait to be elected for them."""

    def __init__(self, client: AsyncClient, link: Link) -> None:
        self._client = client
        self._link = link

    async def keep(self) -> None:
        """`renew`, for ever."""
        while True:
            try:
                await self.renew(datetime.now(UTC))
            except httpx2.HTTPError as error:
                log.warning("certificates.not_kept", reason=str(error).partition("\n")[0])
                await asyncio.sleep(RETRY_S)
            else:
                await asyncio.sleep(CHECK_S)

    async def follow(self, changed: Callable[[PickerTls], None]) -> None:
        """Tell what Envoy shall use, now and after each renewal, for ever."""
        told: PickerTls | None = None
        while True:
            data: Mapping[str, bytes] = {}
            try:
                data = (await self._read(self._link.envoy_secret)).contents
            except httpx2.HTTPError as error:
                log.warning("certificates.not_read", reason=str(error).partition("\n")[0])
            if {_CERTIFICATE, _KEY, _AUTHORITY} <= data.keys():
                found = PickerTls(self._link.picker, data[_AUTHORITY], data[_CERTIFICATE], data[_KEY])
                if found != told:
                    told = found
                    changed(found)
            await asyncio.sleep(FOLLOW_S if told is not None else FOLLOW_FIRST_S)

    async def renew(self, now: datetime) -> None:
        """Make what is missing and renew what is due. Raises httpx2.HTTPError."""
        held = await self._read(self._link.envoy_secret)
        authority = Identity(held.contents.get(_AUTHORITY, b""), held.contents.get(_AUTHORITY_KEY, b""))
        is_new = not authority.key or is_due(authority.certificate, now)
        if is_new:
            authority = new_authority(now)
        if is_new or is_due(held.contents.get(_CERTIFICATE, b""), now):
            # The authority first: what another replica has issued by an older one is issued anew below.
            made = issue(authority, "envoy", [], now)
            await self._write(self._link.envoy_secret, held.version, made, authority.certificate, authority.key)
        picker = await self._read(self._link.picker_secret)
        is_strange = picker.contents.get(_AUTHORITY) != authority.certificate
        if is_strange or is_due(picker.contents.get(_CERTIFICATE, b""), now):
            made = issue(authority, self._link.picker.name, [self._link.host], now)
            await self._write(self._link.picker_secret, picker.version, made, authority.certificate)

    async def _read(self, name: ObjectName) -> _Read:
        secret = await self._client.get(Secret, name.name, namespace=name.namespace)
        contents = cast(dict[str, str], secret.data or {})  # pyright: ignore[reportUnknownMemberType]
        assert secret.metadata is not None
        return _Read(
            {key: base64.b64decode(value) for key, value in contents.items()}, secret.metadata.resourceVersion or ""
        )

    async def _write(
        self, name: ObjectName, version: str, identity: Identity, authority: bytes, authority_key: bytes | None = None
    ) -> None:
        contents = {_CERTIFICATE: identity.certificate, _KEY: identity.key, _AUTHORITY: authority}
        if authority_key is not None:
            contents[_AUTHORITY_KEY] = authority_key
        data = {key: base64.b64encode(value).decode() for key, value in contents.items()}
        # Only filled: whoever installed the gateway made the Secret, and takes it away again. With the version that was
        # read: of two replicas that renew at once one is refused, and looks again.
        await self._client.patch(  # pyright: ignore[reportUnknownMemberType]
            Secret,
            name.name,
            {"metadata": {"resourceVersion": version}, "data": data},
            namespace=name.namespace,
            patch_type=PatchType.MERGE,
        )
        log.info("certificates.renewed", secret=str(name))
