"""Leader election: one of several replicas works at a time."""

import asyncio
import copy
from datetime import UTC, datetime
from typing import Any, cast

import httpx2
import pytest
from lightkube import ApiError, AsyncClient
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.meta_v1 import ObjectMeta, Status
from lightkube.resources.coordination_v1 import Lease
from picker.controller.leader_election import DURATION_S, GIVE_UP_S, RENEW_S, LeaderElector
from picker.resources.names import ObjectName

NAME = ObjectName("system", "status")


class Api:
    """A fake API server with one Lease. A write with an old version is rejected. The Lease exists from the start
    without a holder, as the chart creates it."""

    def __init__(self) -> None:
        self.version = 0
        self.unavailable = False
        self.lease: Lease | None = None
        self.store(LeaseSpec())

    async def get(self, _kind: object, _name: str, namespace: str) -> Lease:
        self._reachable()
        if self.lease is None:
            raise ApiError(status=Status(code=404, message="not found"))
        return copy.deepcopy(self.lease)

    async def replace(self, lease: Lease) -> None:
        self._reachable()
        assert lease.metadata is not None
        if lease.metadata.resourceVersion != str(self.version):
            raise ApiError(status=Status(code=409, message="changed"))
        assert lease.spec is not None
        self.store(lease.spec)

    @property
    def holder(self) -> str | None:
        assert self.lease is not None
        assert self.lease.spec is not None
        return self.lease.spec.holderIdentity

    def store(self, spec: LeaseSpec) -> None:
        self.version += 1
        metadata = ObjectMeta(name=NAME.name, namespace=NAME.namespace, resourceVersion=str(self.version))
        self.lease = Lease(metadata=metadata, spec=copy.deepcopy(spec))

    def _reachable(self) -> None:
        if self.unavailable:
            raise httpx2.ConnectError("away")


class Candidate:
    """A replica, and whether its work is running."""

    def __init__(self, api: Api, identity: str) -> None:
        self.working = False
        self.task = asyncio.create_task(
            LeaderElector(cast(AsyncClient, cast(Any, api)), NAME, identity).run(self._work)
        )

    async def _work(self) -> None:
        self.working = True
        try:
            await asyncio.Event().wait()
        finally:
            self.working = False

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


pytestmark = pytest.mark.looptime


async def test_only_the_first_replica_works() -> None:
    """The second waits as long as the first renews."""
    api = Api()
    first = Candidate(api, "first")
    await asyncio.sleep(0.1)
    second = Candidate(api, "second")
    await asyncio.sleep(5 * DURATION_S)
    assert (first.working, second.working, api.holder) == (True, False, "first")
    await first.stop()
    await second.stop()


async def test_leader_releases_the_lease_when_it_stops() -> None:
    """The next replica need not wait for its expiry."""
    api = Api()
    first = Candidate(api, "first")
    await asyncio.sleep(0.1)
    second = Candidate(api, "second")
    await first.stop()
    await asyncio.sleep(RENEW_S)
    assert (second.working, api.holder) == (True, "second")
    await second.stop()
    assert not api.holder


async def test_expired_lease_is_taken_over() -> None:
    """It expires after its duration without a renewal, by the clock of the waiting replica."""
    api = Api()
    api.store(LeaseSpec(holderIdentity="dead", renewTime=datetime.now(UTC), leaseDurationSeconds=DURATION_S))
    candidate = Candidate(api, "alive")
    await asyncio.sleep(DURATION_S - 0.1)
    assert not candidate.working
    await asyncio.sleep(RENEW_S + 0.2)
    assert (candidate.working, api.holder) == (True, "alive")
    await candidate.stop()


async def test_leader_that_cannot_renew_stops_in_time() -> None:
    """It stops before another may start, because two writers would undo each other's work."""
    api = Api()
    leader = Candidate(api, "first")
    await asyncio.sleep(0.1)
    assert leader.working
    api.unavailable = True
    await asyncio.sleep(GIVE_UP_S + RENEW_S)
    assert not leader.working
    api.unavailable = False
    await asyncio.sleep(RENEW_S + 0.1)
    assert leader.working
    await leader.stop()


async def test_no_replica_works_without_the_lease() -> None:
    """A leader stops when the Lease is deleted. It works again when the release has created the Lease."""
    api = Api()
    candidate = Candidate(api, "first")
    await asyncio.sleep(0.1)
    assert candidate.working
    api.lease = None
    await asyncio.sleep(GIVE_UP_S + 2 * RENEW_S)
    assert (candidate.working, api.lease) == (False, None)
    api.store(LeaseSpec())
    await asyncio.sleep(RENEW_S)
    assert (candidate.working, api.holder) == (True, "first")
    await candidate.stop()


@pytest.mark.parametrize("failure", [OSError("reset"), ValueError("no JSON"), KeyError("spec"), TypeError("a number")])
async def test_unreadable_response_does_not_end_the_election(failure: Exception) -> None:
    """The request is retried."""
    api = Api()
    failures = iter([failure])
    get = api.get

    async def failing_get(kind: object, name: str, namespace: str) -> Lease:
        if (error := next(failures, None)) is not None:
            raise error
        return await get(kind, name, namespace)

    api.get = failing_get  # pyright: ignore[reportAttributeAccessIssue]
    candidate = Candidate(api, "a")
    await asyncio.sleep(2 * RENEW_S)
    assert candidate.working
    candidate.task.cancel()


async def test_failed_work_is_retried_by_the_leader() -> None:
    """A failure ends neither the process nor the leadership."""
    api, attempts = Api(), 0

    async def work() -> None:
        nonlocal attempts
        attempts += 1
        raise RuntimeError("one object too many")

    leader = LeaderElector(cast(AsyncClient, cast(Any, api)), NAME, "a")
    task = asyncio.create_task(leader.run(work))
    await asyncio.sleep(10 * RENEW_S)
    assert attempts >= 2
    assert api.holder == "a"
    task.cancel()
