"""Describes the differences between two inventories."""

from collections.abc import Iterator

from picker.resources.inference import InferencePool
from picker.resources.objects import AnyObject, Resources
from picker.resources.pool_annotations import setting_changes
from picker.sources.inventory import Inventory


def changes(before: Inventory, after: Inventory) -> Iterator[str]:
    """A line for each object and model server that was added, removed or changed."""
    yield from _object_changes(_by_title(before.resources), _by_title(after.resources))
    servers_before = {f"{server.namespace}/{server.name}": server for server in before.servers}
    servers_after = {f"{server.namespace}/{server.name}": server for server in after.servers}
    for name in sorted(servers_before.keys() | servers_after.keys()):
        if name not in servers_after:
            yield f"model server {name} left"
        elif name not in servers_before:
            yield f"model server {name} joined"
        elif servers_after[name].terminating and not servers_before[name].terminating:
            yield f"model server {name} terminates"
        elif servers_before[name] != servers_after[name]:
            yield f"model server {name} changed"


def _object_changes(before: dict[str, AnyObject], after: dict[str, AnyObject]) -> Iterator[str]:
    for title in sorted(before.keys() | after.keys()):
        old, new = before.get(title), after.get(title)
        if new is None:
            yield f"{title} deleted"
        elif old is None:
            yield f"{title} added"
        elif old != new:
            yield f"{title}{_how(old, new)}"


def _how(old: AnyObject, new: AnyObject) -> str:
    if isinstance(old, InferencePool) and isinstance(new, InferencePool):
        changed = ", ".join(setting_changes(old, new))
        return f": {changed}" if changed else " changed"
    return " changed"


def _by_title(resources: Resources) -> dict[str, AnyObject]:
    objects: list[AnyObject] = [
        *resources.pools.values(),
        *resources.models,
        *resources.objectives,
        *resources.rewrites,
        *resources.adapters,
        *resources.gateway_classes,
        *resources.gateways,
        *resources.http_routes,
        *resources.services,
        *resources.traffic_policies,
    ]
    return {f"{type(item).__name__} {item.name}": item for item in objects}
