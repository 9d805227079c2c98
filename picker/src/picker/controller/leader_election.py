"""Leader election among replicas by a Lease, with the rules of client-go."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http import HTTPStatus

import httpx2
import structlog
from lightkube import AsyncClient
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.resources.coordination_v1 import Lease

from picker.bounded_text import shorten
from picker.resources.names import ObjectName
from picker.sources.informer import UNREADABLE, Backoff, status_code

DURATION_S = 15
"""A Lease not renewed for this long may be taken over (client-go: `leaseDuration`)."""

RENEW_S = 5.0
GIVE_UP_S = 10.0
"""The leader stops after this long without a renewal, before another may start (client-go: `renewDeadline`)."""

MAX_RESTART_S = 60.0
"""Longest pause between two attempts to run work that fails. Judgement."""

log = structlog.get_logger(__name__)


class LeaderElector:
    """Runs work only while this replica holds the Lease.

    The Lease is never created here: it belongs to the release. The Role grants access to it by name, and a right to
    create cannot be limited to a name."""

    def __init__(self, client: AsyncClient, name: ObjectName, identity: str) -> None:
        self._client = client
        self._name = name
        self._identity = identity
        self._seen_renewal: datetime | None = None
        self._seen_at_s = 0.0

    async def run(self, elected: Callable[[], Awaitable[None]]) -> None:
        """Acquires the Lease, runs `elected`, and starts again when the Lease is lost. Runs until cancelled; then it
        releases the Lease."""
        while True:
            await self._wait_until_acquired()
            log.info("lease.acquired", lease=str(self._name), identity=self._identity)
            async with self._released_on_exit(), asyncio.TaskGroup() as tasks:
                work = tasks.create_task(_run(elected))
                await self._renew_until_lost()
                log.warning("lease.lost", lease=str(self._name))
                work.cancel()

    async def _wait_until_acquired(self) -> None:
        while True:
            if await self._try_acquire_or_renew():
                return
            await asyncio.sleep(RENEW_S * random.uniform(0.5, 1.0))

    async def _renew_until_lost(self) -> None:
        loop = asyncio.get_running_loop()
        renewed_s = loop.time()
        while loop.time() - renewed_s < GIVE_UP_S:
            await asyncio.sleep(RENEW_S * random.uniform(0.4, 0.6))
            if await self._try_acquire_or_renew():
                renewed_s = loop.time()

    async def _try_acquire_or_renew(self) -> bool:
        """Makes one attempt to acquire or renew the Lease."""
        try:
            lease = await self._client.get(Lease, self._name.name, namespace=self._name.namespace)
        except (httpx2.HTTPError, OSError, *UNREADABLE) as error:
            return self._failed(error)
        spec = lease.spec or LeaseSpec()
        if spec.holderIdentity and spec.holderIdentity != self._identity and not self._expired(spec):
            return False
        now = datetime.now(UTC)
        if spec.holderIdentity != self._identity:
            spec.acquireTime = now
            spec.leaseTransitions = (spec.leaseTransitions or 0) + 1
        spec.holderIdentity, spec.renewTime, spec.leaseDurationSeconds = self._identity, now, DURATION_S
        lease.spec = spec
        try:
            # The update has the version that was read: of two concurrent attempts one is rejected.
            await self._client.replace(lease)
        except (httpx2.HTTPError, OSError, *UNREADABLE) as error:
            return self._failed(error)
        return True

    def _expired(self, spec: LeaseSpec) -> bool:
        """Returns whether the Lease has expired, by the local clock; clocks of replicas may differ."""
        now_s = asyncio.get_running_loop().time()
        if spec.renewTime != self._seen_renewal:
            self._seen_renewal, self._seen_at_s = spec.renewTime, now_s
        return now_s - self._seen_at_s > (spec.leaseDurationSeconds or DURATION_S)

    def _failed(self, error: Exception) -> bool:
        code = status_code(error) if isinstance(error, httpx2.HTTPError) else None
        if code == HTTPStatus.NOT_FOUND:
            log.warning("lease.missing", lease=str(self._name), remedy="helm upgrade creates it again")
        elif code != HTTPStatus.CONFLICT:
            log.warning("lease.unreachable", lease=str(self._name), reason=shorten(str(error).partition("\n")[0]))
        return False

    @asynccontextmanager
    async def _released_on_exit(self) -> AsyncGenerator[None]:
        """Releases the Lease on exit, so that the next leader need not wait for its expiry."""
        try:
            yield
        finally:
            try:
                async with asyncio.timeout(2.0):
                    lease = await self._client.get(Lease, self._name.name, namespace=self._name.namespace)
                    if lease.spec is not None and lease.spec.holderIdentity == self._identity:
                        lease.spec.holderIdentity = None
                        await self._client.replace(lease)
            except (httpx2.HTTPError, OSError, *UNREADABLE) as error:
                log.warning("lease.release_failed", reason=shorten(str(error)))


async def _run(elected: Callable[[], Awaitable[None]]) -> None:
    """Runs `elected` until cancelled. A failure ends neither the process nor the leadership."""
    backoff = Backoff(RENEW_S, MAX_RESTART_S)
    while True:
        try:
            await elected()
        except Exception:
            log.exception("lease.work_failed")
        await asyncio.sleep(backoff.next_s())
