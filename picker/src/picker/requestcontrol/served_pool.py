"""A pool with the parts that schedule its requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.resources.inference import (
    Criticality,
    InferenceModel,
    InferenceObjective,
    InferencePool,
    ModelRewrites,
    TargetModel,
)
from picker.scheduling.scheduler import Scheduler

NO_REWRITES = ModelRewrites({}, ())


@dataclass(frozen=True, slots=True)
class ServedPool:
    """A pool with the parts that schedule its requests. A change of the pool's object replaces it, and keeps the
    scheduler and the prefix index."""

    pool: InferencePool
    models: Mapping[str, InferenceModel]
    endpoints: Sequence[Endpoint]
    """The pool's ready endpoints: the datastore's own sequence, which it changes in place."""
    scheduler: Scheduler
    prefixes: PrefixIndex
    rewrites: ModelRewrites = NO_REWRITES
    objectives: Mapping[str, InferenceObjective] = field(default_factory=dict[str, InferenceObjective])
    """By the name that requests give."""
    key: str = field(init=False)
    """`GROUP/NAMESPACE/NAME`, as gateways name the pool."""
    label: str = field(init=False)
    """NAMESPACE/NAME, as metrics and logs name the pool."""
    strategy: str = field(init=False)

    def __post_init__(self) -> None:
        # Computed once, because every request uses them.
        object.__setattr__(self, "key", str(self.pool.name))
        object.__setattr__(self, "label", self.pool.name.label)
        object.__setattr__(self, "strategy", self.scheduler.strategy.value)

    def targets(self, model: str) -> Sequence[TargetModel] | None:
        """The targets of `model`, from its InferenceModel, else from a rewrite; None for a model without either."""
        declared = self.models.get(model)
        return declared.targets if declared is not None else self.rewrites.targets(model) or None

    def renames(self) -> bool:
        """Whether any model may have another name at the servers."""
        if self.rewrites.others:
            return True
        given = {name: model.targets for name, model in self.models.items()}
        named = (*given.items(), *self.rewrites.by_model.items())
        return any(target.name != name for name, targets in named for target in targets)

    def priority(self, model: str | None, objective: str | None) -> int:
        """The priority of the objective that a request names, if the pool has it; else that of the request's model."""
        named = self.objectives.get(objective) if objective is not None else None
        if named is not None:
            return named.priority
        declared = self.models.get(model) if model is not None else None
        return declared.criticality.priority if declared is not None else Criticality.STANDARD.priority
