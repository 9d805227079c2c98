"""What the status of an InferenceModel says. Pure, as `pool_status`."""

from collections.abc import Collection, Iterable, Sequence

from picker.kubernetes.pool_status import Finding
from picker.resources.names import POOL_GROUP_V1ALPHA2, PoolName
from picker.sources.kubernetes_watch import Json


def pool_of(model: Json) -> PoolName:
    """The pool that a model refers to, in its own namespace."""
    reference = model["spec"]["poolRef"]
    group = reference.get("group", POOL_GROUP_V1ALPHA2)
    return PoolName(group, model["metadata"]["namespace"], reference["name"])


def model_findings(model: Json, models: Iterable[Json], pools: Collection[PoolName]) -> Sequence[Finding]:
    """Of two objects for one name of a pool the older one stands; of two of one moment the first by name."""
    name, pool = model["spec"]["modelName"], pool_of(model)
    winner = min((each for each in models if each["spec"]["modelName"] == name and pool_of(each) == pool), key=_age)
    if _age(winner) == _age(model):
        stands = Finding("Accepted", True, "Accepted", "Requests for the model are served as this object says.")
    else:
        message = f"Model name {name!r} belongs to InferenceModel {winner['metadata']['name']}, which is older."
        stands = Finding("Accepted", False, "ModelNameInUse", message)
    if pool in pools:
        return stands, Finding("ResolvedRefs", True, "ResolvedRefs", "The pool is there.")
    message = f"There is no InferencePool {pool.name} in group {pool.group}."
    return stands, Finding("ResolvedRefs", False, "InvalidPoolRef", message)


def _age(model: Json) -> tuple[str, str]:
    """API servers write times so that they sort as text."""
    metadata = model["metadata"]
    return metadata["creationTimestamp"], metadata["name"]
