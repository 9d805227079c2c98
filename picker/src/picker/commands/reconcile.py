"""Applies each new inventory to the parts of the picker."""

from collections.abc import Iterable, Sequence
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
        """Returns the index of a new pool, whose endpoints are updated in place."""
        ...

    def add(self, endpoint: Endpoint) -> None: ...

    def remove(self, endpoint: Endpoint) -> None: ...


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
        precise: Precise | None = None,
    ) -> None:
        """`default_pool`: NAMESPACE/NAME of the pool for gateways that name none; None means the only pool with a
        route."""
        self._endpoints = endpoints
        self._scraper = scraper
        self._director = director
        self._rng = rng
        self._default_pool = default_pool
        self._precise = precise
        self._served: dict[PoolName, ServedPool] = {}

    @property
    def served(self) -> Iterable[ServedPool]:
        """The pools that are served now."""
        return self._served.values()

    def follow(self, inventory: Inventory) -> None:
        """Applies `inventory` in one step without an await, so that no decision sees half of it."""
        resources = inventory.resources
        change = self._endpoints.update(inventory)
        for endpoint in change.joined:
            self._scraper.add(endpoint)
            if self._precise is not None:
                self._precise.add(endpoint)
        for endpoint in change.left:
            self._scraper.remove(endpoint)
            if self._precise is not None:
                self._precise.remove(endpoint)
            self.forget(endpoint)
        self._served = {name: self._serving(pool, resources) for name, pool in resources.pools.items()}
        default = default_pool(resources, self._default_pool)
        self._director.serve(self._served.values(), default)
        log.info(
            "inventory.applied",
            pools={name.label: len(self._endpoints.of_pool(name)) for name in self._served},
            default_pool=str(default) if default is not None else None,
        )

    def _serving(self, pool: InferencePool, resources: Resources) -> ServedPool:
        previous = self._served.get(pool.name)
        prefixes = previous.prefixes if previous is not None else self._index(pool.name)
        if previous is not None and previous.pool.strategy is pool.strategy:
            scheduler = previous.scheduler
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

    def _index(self, pool: PoolName) -> PrefixIndex:
        if self._precise is not None:
            return self._precise.index(self._endpoints.of_pool(pool))
        return PrefixIndex(BLOCK_TOKENS)

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
