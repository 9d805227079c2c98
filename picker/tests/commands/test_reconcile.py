"""What a new inventory changes in a running picker, and what it leaves alone."""

from collections.abc import Sequence
from random import Random

import pytest
from gateway_objects import pool, resources, route, to_pool
from picker.commands.reconcile import Reconciler, default_pool
from picker.endpoints.datastore import Datastore
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.metrics.scraper import Scraper
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.requestcontrol.director import Director
from picker.requestcontrol.served_pool import ServedPool
from picker.resources.inference import RoutingStrategy
from picker.resources.names import PoolName
from picker.sources.inventory import Inventory, ModelServer

A = PoolName("inference.networking.x-k8s.io", "default", "a")
PREFIX_CACHE = pool("a").replace(
    "metadata: {name: a}",
    "metadata: {name: a, annotations: {inference.networking.x-k8s.io/routing-strategy: PREFIX_CACHE}}",
)


class SeenScraper(Scraper):
    """Remembers whom it scrapes, and does not."""

    def __init__(self) -> None:
        self.scraped: list[str] = []

    def add(self, endpoint: Endpoint) -> None:
        self.scraped.append(endpoint.address)

    def remove(self, endpoint: Endpoint) -> None:
        self.scraped.remove(endpoint.address)


class SeenDesk(Director):
    """Remembers what it serves."""

    def __init__(self) -> None:
        super().__init__(InFlightTracker(), lambda: 0.0, Random(0), unknown_models=True)
        self.pools: dict[PoolName, ServedPool] = {}
        self.default: PoolName | None = None

    def serve(self, pools: object, default: PoolName | None) -> None:
        assert isinstance(pools, type({}.values()))
        self.pools = {each.pool.name: each for each in pools}
        self.default = default


@pytest.fixture
def desk() -> SeenDesk:
    return SeenDesk()


@pytest.fixture
def scraper() -> SeenScraper:
    return SeenScraper()


@pytest.fixture
def follower(desk: SeenDesk, scraper: SeenScraper) -> Reconciler:
    return Reconciler(Datastore(), scraper, desk, Random(0), None)


def inventory(*texts: str, servers: int) -> Inventory:
    return Inventory(
        resources(*texts),
        tuple(ModelServer(f"s{n}", "default", f"10.0.0.{n}", None, {"app": "a"}) for n in range(servers)),
    )


def test_the_endpoints_of_the_pools_are_scraped_and_no_others(follower: Reconciler, scraper: SeenScraper) -> None:
    follower.follow(inventory(pool("a"), servers=2))
    assert scraper.scraped == ["10.0.0.0:8000", "10.0.0.1:8000"]
    follower.follow(inventory(pool("a"), servers=1))
    assert scraper.scraped == ["10.0.0.0:8000"]
    follower.follow(inventory(servers=1))
    assert scraper.scraped == []


def test_an_edited_strategy_is_another_scheduler_that_knows_what_was_learned(
    follower: Reconciler, desk: SeenDesk
) -> None:
    follower.follow(inventory(pool("a"), servers=1))
    before = desk.pools[A]
    follower.follow(inventory(PREFIX_CACHE, servers=1))
    after = desk.pools[A]
    assert after.scheduler.strategy is RoutingStrategy.PREFIX_CACHE
    assert after.prefixes is before.prefixes
    assert after.endpoints is before.endpoints


def test_what_does_not_concern_a_pool_leaves_its_scheduler_alone(follower: Reconciler, desk: SeenDesk) -> None:
    follower.follow(inventory(pool("a"), servers=1))
    before = desk.pools[A]
    follower.follow(inventory(pool("a"), pool("b"), servers=2))
    assert desk.pools[A].scheduler is before.scheduler
    assert len(desk.pools[A].endpoints) == 2


def test_of_an_endpoint_that_left_no_prefix_is_remembered(follower: Reconciler, desk: SeenDesk) -> None:
    follower.follow(inventory(pool("a"), servers=2))
    served = desk.pools[A]
    first, second = served.endpoints
    for endpoint in (first, second):
        served.prefixes.record(endpoint, (1, 2))
    follower.follow(inventory(pool("a"), servers=1))
    assert served.prefixes.cached_blocks(first, (1, 2)) == 2
    assert served.prefixes.cached_blocks(second, (1, 2)) == 0


@pytest.mark.parametrize(
    ("texts", "named", "found"),
    [
        ([pool("a")], None, "a"),
        ([pool("a"), pool("b")], None, None),
        ([pool("a"), pool("b"), route({"backendRefs": [to_pool("b")]})], None, "b"),
        ([pool("a"), pool("b")], "default/b", "b"),
        ([pool("a")], "default/gone", None),
        ([pool("a"), route({"backendRefs": [to_pool("gone")]})], None, "a"),
        ([], None, None),
    ],
    ids=["the only one", "none of two", "the only routed one", "the named one", "none if missing", "not none", "none"],
)
def test_a_gateway_that_names_no_pool_means(texts: list[str], named: str | None, found: str | None) -> None:
    pool_name = default_pool(resources(*texts), named)
    assert (pool_name.name if pool_name is not None else None) == found


class SeenPrecise:
    """Remembers who is listened to, and which pools have asked for an index."""

    def __init__(self) -> None:
        self.followed: list[str] = []
        self.pools: list[Sequence[Endpoint]] = []

    def index(self, pool: Sequence[Endpoint]) -> PrefixIndex:
        self.pools.append(pool)
        return PrefixIndex(64)

    def add(self, endpoint: Endpoint) -> None:
        self.followed.append(endpoint.address)

    def remove(self, endpoint: Endpoint) -> None:
        self.followed.remove(endpoint.address)


def test_where_endpoints_tell_what_they_hold_all_of_them_are_listened_to(desk: SeenDesk, scraper: SeenScraper) -> None:
    precise = SeenPrecise()
    follower = Reconciler(Datastore(), scraper, desk, Random(0), None, precise)
    follower.follow(inventory(pool("a"), servers=2))
    follower.follow(inventory(PREFIX_CACHE, servers=1))
    assert precise.followed == ["10.0.0.0:8000"]
    [endpoints] = precise.pools
    assert endpoints is desk.pools[A].endpoints
