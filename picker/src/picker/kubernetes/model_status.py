"""What the statuses of the objects about models say. Pure, as `pool_status`."""

from collections.abc import Collection, Iterable, Iterator, Sequence

from picker.kubernetes.pool_status import Finding
from picker.resources.names import POOL_GROUP_V1, POOL_GROUP_V1ALPHA2, PoolName
from picker.sources.kubernetes_watch import Json

_MODELS_NOT_LISTED = "Models that no rule lists"


def pool_of(object_: Json) -> PoolName:
    """The pool that an object refers to, in its own namespace. Without a group an InferenceModel means a v1alpha2 pool,
    what came after it a v1 pool."""
    reference = object_["spec"]["poolRef"]
    default = POOL_GROUP_V1ALPHA2 if object_["kind"] == "InferenceModel" else POOL_GROUP_V1
    return PoolName(reference.get("group") or default, object_["metadata"]["namespace"], reference["name"])


def model_findings(model: Json, models: Iterable[Json], pools: Collection[PoolName]) -> Sequence[Finding]:
    """Of two objects for one name of a pool the older one stands; of two of one moment the first by name."""
    name, pool = model["spec"]["modelName"], pool_of(model)
    winner = min((each for each in models if each["spec"]["modelName"] == name and pool_of(each) == pool), key=_age)
    if _age(winner) == _age(model):
        stands = Finding("Accepted", True, "Accepted", "Requests for the model are served as this object says.")
    else:
        message = f"Model name {name!r} belongs to InferenceModel {winner['metadata']['name']}, which is older."
        stands = Finding("Accepted", False, "ModelNameInUse", message)
    return stands, _pool_finding(pool, pools)


def objective_findings(objective: Json, _all: Iterable[Json], pools: Collection[PoolName]) -> Sequence[Finding]:
    """Objectives have the names of their objects, which nobody else can have."""
    message = "Requests that name the objective have its priority."
    return Finding("Accepted", True, "Accepted", message), _pool_finding(pool_of(objective), pools)


def rewrite_findings(rewrite: Json, rewrites: Iterable[Json], pools: Collection[PoolName]) -> Sequence[Finding]:
    """Of two objects that rewrite one name the older one does; one that rewrites nothing therefore does not stand."""
    pool, own = pool_of(rewrite), list(dict.fromkeys(_rewritten(rewrite)))
    older = [each for each in rewrites if pool_of(each) == pool and _age(each) < _age(rewrite)]
    owners = {
        name: each["metadata"]["name"] for each in sorted(older, key=_age, reverse=True) for name in _rewritten(each)
    }
    told = [
        f"{_MODELS_NOT_LISTED if name is None else f'Model {name!r}'} by InferenceModelRewrite {owners[name]}"
        for name in own
        if name in owners
    ]
    taken = f" Older objects go first: {', '.join(told)}." if told else ""
    if own and len(told) == len(own):
        return Finding("Accepted", False, "ModelNameInUse", taken.strip()), _pool_finding(pool, pools)
    stands = Finding("Accepted", True, "Accepted", f"Models are rewritten as this object says.{taken}")
    return stands, _pool_finding(pool, pools)


def _rewritten(rewrite: Json) -> Iterator[str | None]:
    """The names that clients use; None stands for all that no rule lists."""
    for rule in rewrite["spec"]["rules"]:
        matches = rule.get("matches") or ()
        yield from (match["model"]["value"] for match in matches)
        if not matches:
            yield None


def _pool_finding(pool: PoolName, pools: Collection[PoolName]) -> Finding:
    if pool in pools:
        return Finding("ResolvedRefs", True, "ResolvedRefs", "The pool is there.")
    message = f"There is no InferencePool {pool.name} in group {pool.group}."
    return Finding("ResolvedRefs", False, "InvalidPoolRef", message)


def _age(model: Json) -> tuple[str, str]:
    """API servers write times so that they sort as text."""
    metadata = model["metadata"]
    return metadata["creationTimestamp"], metadata["name"]
