"""Computes the conditions of InferenceModels, InferenceObjectives and InferenceModelRewrites. Pure, like
`pool_status`."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from picker.bounded_text import shorten
from picker.controller.pool_status import ConditionResult
from picker.resources.names import POOL_GROUP_V1, POOL_GROUP_V1ALPHA2, PoolName
from picker.sources.informer import UNREADABLE, Json

Claims = Mapping[tuple[PoolName, str | None], str]
"""The owner of each model name of a pool, by name; None means all models that no rule lists."""

MAX_LISTED = 16
"""Limit on model names in one message. Judgement: more than a person reads."""

_MODELS_NOT_LISTED = "Models that no rule lists"


def pool_of(object_: Json) -> PoolName:
    """Returns the pool that an object refers to, in its own namespace. Without a group, an InferenceModel refers to a
    v1alpha2 pool, newer kinds to a v1 pool."""
    reference = object_["spec"]["poolRef"]
    default = POOL_GROUP_V1ALPHA2 if object_["kind"] == "InferenceModel" else POOL_GROUP_V1
    return PoolName(reference.get("group") or default, object_["metadata"]["namespace"], reference["name"])


def model_claims(models: Iterable[Json]) -> Claims:
    """Returns the owners of the names of InferenceModels."""
    return _claims(models, lambda model: (model["spec"]["modelName"],))


def rewrite_claims(rewrites: Iterable[Json]) -> Claims:
    """Returns the owners of the names that InferenceModelRewrites rewrite."""
    return _claims(rewrites, _rewritten)


def no_claims(_objects: Iterable[Json]) -> Claims:
    """Returns no owners, for a kind whose objects share no names."""
    return {}


def _claims(objects: Iterable[Json], names: Callable[[Json], Iterable[str | None]]) -> Claims:
    """Returns the owners of names: the oldest object owns a name, and of equally old ones the first by name. Unreadable
    objects own none."""
    aged: list[tuple[tuple[str, str], PoolName, tuple[str | None, ...]]] = []
    for object_ in objects:
        with suppress(*UNREADABLE):
            aged.append((_age(object_), pool_of(object_), tuple(names(object_))))
    claims: dict[tuple[PoolName, str | None], str] = {}
    for (_, owner), pool, claimed in sorted(aged, key=lambda entry: entry[0]):
        for name in claimed:
            claims.setdefault((pool, name), owner)
    return claims


def model_conditions(model: Json, claims: Claims, pools: Collection[PoolName]) -> Sequence[ConditionResult]:
    """Returns whether the object owns its model name, and whether its pool exists."""
    name, pool = model["spec"]["modelName"], pool_of(model)
    owner = claims[pool, name]
    if owner == model["metadata"]["name"]:
        accepted = ConditionResult("Accepted", True, "Accepted", "This object applies to requests for the model.")
    else:
        message = f"Model name {shorten(name)!r} is used by the older InferenceModel {owner}."
        accepted = ConditionResult("Accepted", False, "ModelNameInUse", message)
    return accepted, _pool_condition(pool, pools)


def objective_conditions(objective: Json, _claims: Claims, pools: Collection[PoolName]) -> Sequence[ConditionResult]:
    """Returns whether the objective's pool exists. An objective always owns its name, which is the name of the
    object."""
    message = "The priority applies to requests that name the objective."
    return ConditionResult("Accepted", True, "Accepted", message), _pool_condition(pool_of(objective), pools)


def rewrite_conditions(rewrite: Json, claims: Claims, pools: Collection[PoolName]) -> Sequence[ConditionResult]:
    """Returns which of the rewritten names belong to older objects, and whether the pool exists. A rewrite without a
    name of its own is not accepted."""
    pool, own_name, own_names = pool_of(rewrite), rewrite["metadata"]["name"], list(dict.fromkeys(_rewritten(rewrite)))
    taken_names = [(name, owner) for name in own_names if (owner := claims[pool, name]) != own_name]
    listed = [
        f"{_MODELS_NOT_LISTED if name is None else f'Model {shorten(name)!r}'} by InferenceModelRewrite {owner}"
        for name, owner in taken_names[:MAX_LISTED]
    ]
    if len(taken_names) > MAX_LISTED:
        listed.append(f"and {len(taken_names) - MAX_LISTED} more")
    conflict = f" Names used by older objects: {', '.join(listed)}." if listed else ""
    if own_names and len(taken_names) == len(own_names):
        return ConditionResult("Accepted", False, "ModelNameInUse", conflict.strip()), _pool_condition(pool, pools)
    accepted = ConditionResult(
        "Accepted", True, "Accepted", f"This object applies to the models of its pool.{conflict}"
    )
    return accepted, _pool_condition(pool, pools)


def _rewritten(rewrite: Json) -> Iterator[str | None]:
    """Yields the names that clients use; None means all models that no rule lists."""
    for rule in rewrite["spec"]["rules"]:
        matches = rule.get("matches") or ()
        yield from (match["model"]["value"] for match in matches)
        if not matches:
            yield None


def _pool_condition(pool: PoolName, pools: Collection[PoolName]) -> ConditionResult:
    if pool in pools:
        return ConditionResult("ResolvedRefs", True, "ResolvedRefs", "The pool exists.")
    message = f"InferencePool {pool.name} in group {pool.group} does not exist."
    return ConditionResult("ResolvedRefs", False, "InvalidPoolRef", message)


def _age(model: Json) -> tuple[str, str]:
    """Returns a sort key by age. API servers write times in a form that sorts as text."""
    metadata = model["metadata"]
    return metadata["creationTimestamp"], metadata["name"]
