"""The state of the world as a source sees it at one moment."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from picker.resources.inference import InferencePool
from picker.resources.objects import Resources


@dataclass(frozen=True, slots=True)
class ModelServer:
    """A process that serves models: a pod, or a line of the endpoints file."""

    name: str
    namespace: str
    address: str
    """An IP address, without a port."""
    port: int | None
    """Overrides the pool's and the Service's target ports (several servers on one machine); None on Kubernetes."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Inventory:
    """All objects and all model servers that are ready to be sent requests."""

    resources: Resources
    servers: tuple[ModelServer, ...]

    def of_pools(self, serves: Callable[[InferencePool], bool]) -> "Inventory":
        """The same with only the pools that `serves` accepts."""
        pools = {name: pool for name, pool in self.resources.pools.items() if serves(pool)}
        if len(pools) == len(self.resources.pools):
            return self
        return replace(self, resources=replace(self.resources, pools=pools))


class Source(Protocol):
    """Anything that can tell the inventory now and each time it changes."""

    @property
    def refused(self) -> int:
        """How many changes were wrong and have not been taken over."""
        ...

    def inventories(self) -> AsyncIterator[Inventory]:
        """The current inventory first, then one for each change. What is wrong with a change is logged, and not
        yielded."""
        ...
