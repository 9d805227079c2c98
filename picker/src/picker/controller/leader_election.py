"""Elects one of several replicas: who holds the Lease.

The rules are those of client-go's leader election, so that `kubectl get lease` reads as people are used to."""

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
"""A Lease that has not been renewed for so long is anyone's."""

RENEW_S = 5.0
GIVE_UP_S = 10.0
"""A holder that could not renew for so long stops, well before another may start."""

MAX_RESTART_S = 60.0
"""Between two attempts to run what fails. Judgement."""

log = structlog.get_logger(__name__)


class LeaderElector:
    """Runs something while this replica holds the Lease, and only then.

    The Lease is taken, never made: it is the release's, whose Role knows it by its name, and a right to create knows no
    names."""

    def __init__(self, client: AsyncClient, name: ObjectName, identity: str) -> None:
        self._client = client
        self._name = name
        self._identity = identity
        self._seen_renewal: datetime | None = None
        self._seen_at_s = 0.0

    async def run(self, elected: Callable[[], Awaitable[None]]) -> None:
        """Wait for the Lease, run `elected`, and begin again when it has been lost. For ever; when cancelled, the Lease
        is given back."""
        while True:
            await self._wait_until_held()
            log.info("lease.acquired", lease=str(self._name), identity=self._identity)
            async with self._given_back(), asyncio.TaskGroup() as tasks:
                working = tasks.create_task(_run(elected))
                await self._renew_until_lost()
                log.warning("lease.lost", lease=str(self._name))
                working.cancel()

    async def _wait_until_held(self) -> None:
        while True:
            if await self._try_to_hold():
                return
            await asyncio.sleep(RENEW_S * random.uniform(0.5, 1.0))

    async def _renew_until_lost(self) -> None:
        loop = asyncio.get_running_loop()
        renewed_s = loop.time()
        while loop.time() - renewed_s < GIVE_UP_S:
            await asyncio.sleep(RENEW_S * random.uniform(0.4, 0.6))
            if await self._try_to_hold():
                renewed_s = loop.time()

    async def _try_to_hold(self) -> bool:
        """One attempt to take or renew the Lease."""
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
            # With the version that was read: of two who try at once one is refused.
            await self._client.replace(lease)
        except (httpx2.HTTPError, OSError, *UNREADABLE) as error:
            return self._failed(error)
        return True

    def _expired(self, spec: LeaseSpec) -> bool:
        """By our own clock: the holder's may be another."""
        now_s = asyncio.get_running_loop().time()
        if spec.renewTime != self._seen_renewal:
            self._seen_renewal, self._seen_at_s = spec.renewTime, now_s
        return now_s - self._seen_at_s > (spec.leaseDurationSeconds or DURATION_S)

    def _failed(self, error: Exception) -> bool:
        code = status_code(error) if isinstance(error, httpx2.HTTPError) else None
        if code == HTTPStatus.NOT_FOUND:
            log.warning("lease.missing", lease=str(self._name), remedy="helm upgrade makes it again")
        elif code != HTTPStatus.CONFLICT:
            log.warning("lease.unreachable", lease=str(self._name), reason=shorten(str(error).partition("\n")[0]))
        return False

    @asynccontextmanager
    async def _given_back(self) -> AsyncGenerator[None]:
        """On the way out the next holder need not wait for the Lease to run out."""
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
    """Run `elected` until cancelled. A failure of it neither ends the process nor the leadership."""
    backoff = Backoff(RENEW_S, MAX_RESTART_S)
    while True:
        try:
            await elected()
        except Exception:
            log.exception("lease.work_failed")
        await asyncio.sleep(backoff.next_s())
