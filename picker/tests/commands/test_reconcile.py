"""The changes that a new inventory makes in a running picker."""

from collections.abc import Sequence
from random import Random

import pytest
from gateway_objects import pool, resources, route, to_pool
from picker.commands.reconcile import Reconciler, default_pool
from picker.endpoints.datastore import Datastore
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.metrics.schedule import ScrapeIntervals
from picker.endpoints.metrics.scraper import Scraper, ScrapeSettings
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


def annotated(name: str, value: str) -> str:
    """Pool `a` with a setting."""
    return pool("a").replace(
        "metadata: {name: a}",
        f'metadata: {{name: a, annotations: {{inference.networking.x-k8s.io/{name}: "{value}"}}}}',
    )


class RecordingKvEventMode:
    """A KV-event mode that records its endpoints and the pools with an index. It is its own start."""

    def __init__(self, *, default: bool) -> None:
        self.default = default
        self.started = False
        self.followed: list[str] = []
        self.pools: list[Sequence[Endpoint]] = []

    def start(self) -> "RecordingKvEventMode | None":
        self.started = True
        return self

    def index(self, pool: Sequence[Endpoint]) -> PrefixIndex:
        self.pools.append(pool)
        return PrefixIndex(64)

    def add(self, endpoint: Endpoint) -> None:
        self.followed.append(endpoint.address)

    def remove(self, endpoint: Endpoint) -> None:
        self.followed.remove(endpoint.address)


class MissingKvEventMode(RecordingKvEventMode):
    """One whose packages are missing."""

    def start(self) -> None:
        self.started = True


class RecordingScraper(Scraper):
    """A scraper that records its endpoints and does not scrape."""

    def __init__(self) -> None:
        self.settings = ScrapeSettings(ScrapeIntervals(interval_s=0.2), timeout_s=1.0)
        self.scraped: dict[str, float | None] = {}

    def add(self, endpoint: Endpoint, interval_s: float | None = None) -> None:
        self.scraped[endpoint.address] = interval_s

    def remove(self, endpoint: Endpoint) -> None:
        del self.scraped[endpoint.address]


class RecordingDirector(Director):
    """A director that records its pools."""

    def __init__(self) -> None:
        super().__init__(InFlightTracker(), lambda: 0.0, Random(0), unknown_models=True)
        self.pools: dict[PoolName, ServedPool] = {}
        self.default: PoolName | None = None

    def serve(self, pools: object, default: PoolName | None) -> None:
        assert isinstance(pools, type({}.values()))
        self.pools = {served.pool.name: served for served in pools}
        self.default = default


@pytest.fixture
def director() -> RecordingDirector:
    return RecordingDirector()


@pytest.fixture
def scraper() -> RecordingScraper:
    return RecordingScraper()


@pytest.fixture
def reconciler(director: RecordingDirector, scraper: RecordingScraper) -> Reconciler:
    return Reconciler(Datastore(), scraper, director, Random(0), None, RecordingKvEventMode(default=False))


def inventory(*texts: str, servers: int) -> Inventory:
    return Inventory(
        resources(*texts),
        tuple(ModelServer(f"s{n}", "default", f"10.0.0.{n}", None, {"app": "a"}) for n in range(servers)),
    )


def test_only_endpoints_of_pools_are_scraped(reconciler: Reconciler, scraper: RecordingScraper) -> None:
    reconciler.follow(inventory(pool("a"), servers=2))
    assert list(scraper.scraped) == ["10.0.0.0:8000", "10.0.0.1:8000"]
    reconciler.follow(inventory(pool("a"), servers=1))
    assert list(scraper.scraped) == ["10.0.0.0:8000"]
    reconciler.follow(inventory(servers=1))
    assert scraper.scraped == {}


def test_edited_strategy_keeps_prefixes_and_endpoints(reconciler: Reconciler, director: RecordingDirector) -> None:
    reconciler.follow(inventory(pool("a"), servers=1))
    previous = director.pools[A]
    reconciler.follow(inventory(PREFIX_CACHE, servers=1))
    current = director.pools[A]
    assert current.scheduler.strategy is RoutingStrategy.PREFIX_CACHE
    assert current.prefixes is previous.prefixes
    assert current.endpoints is previous.endpoints


def test_unrelated_change_keeps_the_scheduler(reconciler: Reconciler, director: RecordingDirector) -> None:
    reconciler.follow(inventory(pool("a"), servers=1))
    previous = director.pools[A]
    reconciler.follow(inventory(pool("a"), pool("b"), servers=2))
    assert director.pools[A].scheduler is previous.scheduler
    assert len(director.pools[A].endpoints) == 2


def test_prefixes_of_a_removed_endpoint_are_discarded(reconciler: Reconciler, director: RecordingDirector) -> None:
    reconciler.follow(inventory(pool("a"), servers=2))
    served = director.pools[A]
    first, second = served.endpoints
    for endpoint in (first, second):
        served.prefixes.record(endpoint, (1, 2))
    reconciler.follow(inventory(pool("a"), servers=1))
    assert served.prefixes.cached_blocks(first, (1, 2)) == 2
    assert served.prefixes.cached_blocks(second, (1, 2)) == 0


@pytest.mark.parametrize(
    ("texts", "named", "expected"),
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
def test_default_pool(texts: list[str], named: str | None, expected: str | None) -> None:
    pool_name = default_pool(resources(*texts), named)
    assert (pool_name.name if pool_name is not None else None) == expected


def test_kv_events_are_followed_on_all_endpoints_by_default(
    director: RecordingDirector, scraper: RecordingScraper
) -> None:
    kv_event_mode = RecordingKvEventMode(default=True)
    reconciler = Reconciler(Datastore(), scraper, director, Random(0), None, kv_event_mode)
    reconciler.follow(inventory(pool("a"), servers=2))
    reconciler.follow(inventory(PREFIX_CACHE, servers=1))
    assert kv_event_mode.followed == ["10.0.0.0:8000"]
    [endpoints] = kv_event_mode.pools
    assert endpoints is director.pools[A].endpoints


def test_an_annotation_switches_kv_events_and_keeps_the_estimate(
    director: RecordingDirector, scraper: RecordingScraper
) -> None:
    kv_event_mode = RecordingKvEventMode(default=False)
    reconciler = Reconciler(Datastore(), scraper, director, Random(0), None, kv_event_mode)
    reconciler.follow(inventory(pool("a"), pool("b"), servers=1))
    served = director.pools[A]
    served.prefixes.record(served.endpoints[0], (1, 2))
    assert not kv_event_mode.started

    reconciler.follow(inventory(annotated("kv-events", "true"), pool("b"), servers=1))
    switched = director.pools[A]
    assert (kv_event_mode.started, kv_event_mode.followed) == (True, ["10.0.0.0:8000"])
    assert switched.prefixes is not served.prefixes
    assert switched.scheduler is served.scheduler
    assert switched.scheduler.prefixes is switched.prefixes
    assert switched.prefixes.cached_blocks(served.endpoints[0], (1, 2)) == 2

    reconciler.follow(inventory(pool("a"), pool("b"), servers=1))
    assert kv_event_mode.followed == []
    assert director.pools[A].prefixes.cached_blocks(served.endpoints[0], (1, 2)) == 2


def test_an_endpoint_is_followed_while_any_of_its_pools_uses_kv_events(
    director: RecordingDirector, scraper: RecordingScraper
) -> None:
    kv_event_mode = RecordingKvEventMode(default=True)
    reconciler = Reconciler(Datastore(), scraper, director, Random(0), None, kv_event_mode)
    reconciler.follow(inventory(annotated("kv-events", "false"), pool("b").replace("app: b", "app: a"), servers=1))
    assert kv_event_mode.followed == ["10.0.0.0:8000"]
    assert len(kv_event_mode.pools) == 1


def test_without_the_packages_of_kv_events_the_estimate_is_used(
    director: RecordingDirector, scraper: RecordingScraper
) -> None:
    reconciler = Reconciler(Datastore(), scraper, director, Random(0), None, MissingKvEventMode(default=False))
    reconciler.follow(inventory(annotated("kv-events", "true"), servers=1))
    assert type(director.pools[A].prefixes) is PrefixIndex


def test_an_annotation_sets_the_scrape_interval(reconciler: Reconciler, scraper: RecordingScraper) -> None:
    reconciler.follow(inventory(annotated("scrape-interval", "1s"), servers=1))
    assert scraper.scraped == {"10.0.0.0:8000": 1.0}
    reconciler.follow(inventory(pool("a"), servers=1))
    assert scraper.scraped == {"10.0.0.0:8000": 0.2}


def test_an_endpoint_of_several_pools_has_the_shortest_interval(
    reconciler: Reconciler, scraper: RecordingScraper
) -> None:
    other = pool("b").replace("app: b", "app: a")
    reconciler.follow(inventory(annotated("scrape-interval", "1s"), other, servers=1))
    assert scraper.scraped == {"10.0.0.0:8000": 0.2}
