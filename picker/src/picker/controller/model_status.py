"""What the statuses of the objects about models say. Pure, as `pool_status`."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from picker.bounded_text import shorten
from picker.controller.pool_status import ConditionResult
from picker.resources.names import POOL_GROUP_V1, POOL_GROUP_V1ALPHA2, PoolName
from picker.sources.informer import UNREADABLE, Json

Claims = Mapping[tuple[PoolName, str | None], str]
"""The name of the object that owns a model name of a pool; None is the name of all models that no rule lists."""

MAX_LISTED = 16
"""Model names in one message. Judgement: more than a person reads."""

_MODELS_NOT_LISTED = "Models that no rule lists"


def pool_of(object_: Json) -> PoolName:
    """The pool that an object refers to, in its own namespace. Without a group an InferenceModel means a v1alpha2 pool,
    what came after it a v1 pool."""
    reference = object_["spec"]["poolRef"]
    default = POOL_GROUP_V1ALPHA2 if object_["kind"] == "InferenceModel" else POOL_GROUP_V1
    return PoolName(reference.get("group") or default, object_["metadata"]["namespace"], reference["name"])


def model_claims(models: Iterable[Json]) -> Claims:
    """The name of each InferenceModel's own."""
    return _claims(models, lambda model: (model["spec"]["modelName"],))


def rewrite_claims(rewrites: Iterable[Json]) -> Claims:
    """The names that each InferenceModelRewrite rewrites."""
    return _claims(rewrites, _rewritten)


def no_claims(_objects: Iterable[Json]) -> Claims:
    """Of a kind whose objects share nothing."""
    return {}


def _claims(objects: Iterable[Json], names: Callable[[Json], Iterable[str | None]]) -> Claims:
    """The oldest object has a name; of two of one moment the first by name. Objects that cannot be read have none."""
    aged: list[tuple[tuple[str, str], PoolName, tuple[str | None, ...]]] = []
    for each in objects:
        with suppress(*UNREADABLE):
            aged.append((_age(each), pool_of(each), tuple(names(each))))
    claims: dict[tuple[PoolName, str | None], str] = {}
    for (_, owner), pool, claimed in sorted(aged, key=lambda each: each[0]):
        for name in claimed:
            claims.setdefault((pool, name), owner)
    return claims


def model_findings(model: Json, claims: Claims, pools: Collection[PoolName]) -> Sequence[ConditionResult]:
    """Whether the model's name belongs to it, and whether its pool exists."""
    name, pool = model["spec"]["modelName"], pool_of(model)
    owner = claims[pool, name]
    if owner == model["metadata"]["name"]:
        own = ConditionResult("Accepted", True, "Accepted", "Requests for the model are served as this object says.")
    else:
        message = f"Model name {shorten(name)!r} belongs to InferenceModel {owner}, which is older."
        own = ConditionResult("Accepted", False, "ModelNameInUse", message)
    return own, _pool_finding(pool, pools)


def objective_findings(objective: Json, _claims: Claims, pools: Collection[PoolName]) -> Sequence[ConditionResult]:
    """Whether the objective's pool exists. Its name is its own: two objects of one namespace have two names."""
    message = "Requests that name the objective have its priority."
    return ConditionResult("Accepted", True, "Accepted", message), _pool_finding(pool_of(objective), pools)


def rewrite_findings(rewrite: Json, claims: Claims, pools: Collection[PoolName]) -> Sequence[ConditionResult]:
    """Which of the rewritten names belong to older objects, and whether the pool exists. A rewrite that is left no name
    is not accepted."""
    pool, own_name, own = pool_of(rewrite), rewrite["metadata"]["name"], list(dict.fromkeys(_rewritten(rewrite)))
    lost = [(name, owner) for name in own if (owner := claims[pool, name]) != own_name]
    listed = [
        f"{_MODELS_NOT_LISTED if name is None else f'Model {shorten(name)!r}'} by InferenceModelRewrite {owner}"
        for name, owner in lost[:MAX_LISTED]
    ]
    if len(lost) > MAX_LISTED:
        listed.append(f"and {len(lost) - MAX_LISTED} more")
    taken = f" Older objects go first: {', '.join(listed)}." if listed else ""
    if own and len(lost) == len(own):
        return ConditionResult("Accepted", False, "ModelNameInUse", taken.strip()), _pool_finding(pool, pools)
    accepted = ConditionResult("Accepted", True, "Accepted", f"Models are rewritten as this object says.{taken}")
    return accepted, _pool_finding(pool, pools)


def _rewritten(rewrite: Json) -> Iterator[str | None]:
    """The names that clients use; None means all that no rule lists."""
    for rule in rewrite["spec"]["rules"]:
        matches = rule.get("matches") or ()
        yield from (match["model"]["value"] for match in matches)
        if not matches:
            yield None


def _pool_finding(pool: PoolName, pools: Collection[PoolName]) -> ConditionResult:
    if pool in pools:
        return ConditionResult("ResolvedRefs", True, "ResolvedRefs", "The pool is there.")
    message = f"There is no InferencePool {pool.name} in group {pool.group}."
    return ConditionResult("ResolvedRefs", False, "InvalidPoolRef", message)


def _age(model: Json) -> tuple[str, str]:
    """API servers write times so that they sort as text."""
    metadata = model["metadata"]
    return metadata["creationTimestamp"], metadata["name"]
