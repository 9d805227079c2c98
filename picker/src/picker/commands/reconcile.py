"""Applies each new inventory to the parts of the picker."""

from collections.abc import Iterable, Sequence, Set
from random import Random
from typing import Protocol

import structlog

from picker.endpoints.datastore import Datastore
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.metrics.scraper import Scraper
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.requestcontrol.director import BLOCK_TOKENS, Director
from picker.requestcontrol.served_pool import ServedPool
from picker.resources.inference import InferencePool
from picker.resources.names import PoolName
from picker.resources.objects import Resources
from picker.scheduling.scheduler import Scheduler
from picker.sources.inventory import Inventory

log = structlog.get_logger(__name__)


class Precise(Protocol):
    """The prefix cache indexes of endpoints that publish KV events."""

    def index(self, pool: Sequence[Endpoint]) -> PrefixIndex:
        """Returns the index of a pool, whose endpoints are updated in place."""
        ...

    def add(self, endpoint: Endpoint) -> None: ...

    def remove(self, endpoint: Endpoint) -> None: ...


class PreciseMode(Protocol):
    """Whether pools use KV events."""

    @property
    def default(self) -> bool:
        """For pools without a setting of their own."""
        ...

    def start(self) -> Precise | None:
        """Returns the mode, which the first call starts. None if its packages are missing."""
        ...


class Reconciler:
    """Applies inventories to the datastore, the scraper and the director's pools. What was learned of a pool remains as
    long as the pool exists."""

    def __init__(
        self,
        endpoints: Datastore,
        scraper: Scraper,
        director: Director,
        rng: Random,
        default_pool: str | None,
        precise: PreciseMode,
    ) -> None:
        """`default_pool`: NAMESPACE/NAME of the pool for gateways that name none; None means the only pool with a
        route."""
        self._endpoints = endpoints
        self._scraper = scraper
        self._director = director
        self._rng = rng
        self._default_pool = default_pool
        self._precise_mode = precise
        self._precise: Precise | None = None
        self._precise_pools: set[PoolName] = set()
        """Those with an index of `_precise`."""
        self._followed: dict[Endpoint, None] = {}
        """The endpoints that were added to `_precise`."""
        self._served: dict[PoolName, ServedPool] = {}

    @property
    def served(self) -> Iterable[ServedPool]:
        """The pools that are served now."""
        return self._served.values()

    def follow(self, inventory: Inventory) -> None:
        """Applies `inventory` in one step without an await, so that no decision sees half of it."""
        resources = inventory.resources
        change = self._endpoints.update(inventory)
        for endpoint in change.left:
            self._scraper.remove(endpoint)
            self.forget(endpoint)
        for endpoint, interval_s in self._scrape_intervals(resources.pools.values()).items():
            self._scraper.add(endpoint, interval_s)
        switched = self._follow_events(resources.pools.values())
        self._served = {name: self._serving(pool, resources, switched) for name, pool in resources.pools.items()}
        default = default_pool(resources, self._default_pool)
        self._director.serve(self._served.values(), default)
        log.info(
            "inventory.applied",
            pools={name.label: len(self._endpoints.of_pool(name)) for name in self._served},
            default_pool=str(default) if default is not None else None,
        )

    def _scrape_intervals(self, pools: Iterable[InferencePool]) -> dict[Endpoint, float]:
        """The endpoints of the pools, each with the shortest interval of its pools."""
        intervals: dict[Endpoint, float] = {}
        for pool in pools:
            own = pool.settings.scrape_interval_s
            interval_s = own if own is not None else self._scraper.settings.intervals.interval_s
            for endpoint in self._endpoints.of_pool(pool.name):
                intervals[endpoint] = min(interval_s, intervals.get(endpoint, interval_s))
        return intervals

    def _follow_events(self, pools: Iterable[InferencePool]) -> Set[PoolName]:
        """Subscribes to the endpoints of the pools that use KV events, and ends the other subscriptions. Returns the
        pools that begin or cease to use them."""
        # In order: the ranks of a server's ports depend on it.
        using = [pool.name for pool in pools if self._uses_events(pool)]
        if using and self._precise is None:
            self._precise = self._precise_mode.start()
        if self._precise is None:
            return frozenset()
        followed = dict.fromkeys(endpoint for name in using for endpoint in self._endpoints.of_pool(name))
        for endpoint in self._followed.keys() - followed.keys():
            self._precise.remove(endpoint)
        for endpoint in followed:
            if endpoint not in self._followed:
                self._precise.add(endpoint)
        switched = set(using) ^ self._precise_pools
        self._followed, self._precise_pools = followed, set(using)
        return switched

    def _uses_events(self, pool: InferencePool) -> bool:
        own = pool.settings.kv_events
        return own if own is not None else self._precise_mode.default

    def _serving(self, pool: InferencePool, resources: Resources, switched: Set[PoolName]) -> ServedPool:
        previous = self._served.get(pool.name)
        prefixes = self._prefixes(pool.name, previous, switched)
        if previous is not None and previous.pool.strategy is pool.strategy:
            scheduler = previous.scheduler
            scheduler.prefixes = prefixes
        else:
            scheduler = Scheduler(pool.strategy, prefixes, self._rng)
        return ServedPool(
            pool,
            resources.models_of(pool.name),
            self._endpoints.of_pool(pool.name),
            scheduler,
            prefixes,
            resources.rewrites_of(pool.name),
            resources.objectives_of(pool.name),
        )

    def _prefixes(self, pool: PoolName, previous: ServedPool | None, switched: Set[PoolName]) -> PrefixIndex:
        """The pool's index. That of a pool in `switched`, which begins or ceases to use KV events, keeps its
        estimate."""
        if previous is not None and pool not in switched:
            return previous.prefixes
        if self._precise is not None and pool in self._precise_pools:
            index = self._precise.index(self._endpoints.of_pool(pool))
        else:
            index = PrefixIndex(BLOCK_TOKENS)
        if previous is not None:
            index.adopt(previous.prefixes)
        return index

    def forget(self, endpoint: Endpoint) -> None:
        """Discards the cached prefixes of `endpoint`, which has left or has lost its cache."""
        for served in self._served.values():
            served.prefixes.forget(endpoint)


def default_pool(resources: Resources, named: str | None) -> PoolName | None:
    """Returns the pool `named` (NAMESPACE/NAME); without a name, the only pool with a route, or the only pool."""
    if named is not None:
        return next((pool for pool in resources.pools if pool.label == named), None)
    candidates = resources.routed_pools() & resources.pools.keys() or resources.pools.keys()
    return next(iter(candidates)) if len(candidates) == 1 else None
