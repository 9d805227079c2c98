"""The objects and model servers that a source reads at one moment."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from picker.resources.inference import InferencePool
from picker.resources.objects import Resources
from picker.sources.active_ports import ALL_PORTS, ActivePorts


@dataclass(frozen=True, slots=True)
class ModelServer:
    """A process that serves models: a pod, or an entry of the endpoints file."""

    name: str
    namespace: str
    address: str
    """An IP address, without a port."""
    port: int | None
    """Overrides the target ports of pools and Services (several servers on one machine). None on Kubernetes."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    terminating: bool = False
    """Whether it is asked to stop and still serves. It gets requests only in place of no server at all."""
    active_ports: ActivePorts = ALL_PORTS
    """Those of a pool's target ports at which it serves requests."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """All objects, and all ready model servers."""

    resources: Resources
    servers: tuple[ModelServer, ...]

    def of_pools(self, serves: Callable[[InferencePool], bool]) -> "Inventory":
        """This inventory with only the pools that `serves` accepts."""
        pools = {name: pool for name, pool in self.resources.pools.items() if serves(pool)}
        if len(pools) == len(self.resources.pools):
            return self
        return replace(self, resources=replace(self.resources, pools=pools))


class Source(Protocol):
    """Yields the current inventory and one for each change."""

    @property
    def refused(self) -> int:
        """Number of changes that were invalid and are not applied."""
        ...

    def inventories(self) -> AsyncIterator[Inventory]:
        """The current inventory first, then one for each change. An invalid change is logged and not applied."""
        ...
