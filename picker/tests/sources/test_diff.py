"""Descriptions of the changes between two inventories."""

from dataclasses import replace

from manifests import MODEL, OBJECTIVE, POOL, REWRITE, ROUTE
from picker.resources.inference import InferencePool, PoolSettings, RoutingStrategy
from picker.resources.objects import AnyObject, Resources
from picker.resources.parse import Parsed, parse
from picker.sources.diff import changes
from picker.sources.inventory import Inventory, ModelServer

A, B = (ModelServer(name, "default", f"10.0.0.{number}", 8000, {}) for number, name in enumerate("ab"))


def the_object(text: str) -> AnyObject:
    [parsed] = parse(text, "f.yaml")
    assert isinstance(parsed, Parsed)
    return parsed.object


def inventory(*texts: str, servers: tuple[ModelServer, ...] = ()) -> Inventory:
    return Inventory(Resources.of(map(the_object, texts)), servers)


def test_an_equal_inventory_is_no_change() -> None:
    """In any order."""
    assert list(changes(inventory(POOL, MODEL), inventory(MODEL, POOL))) == []


def test_every_kind_is_reported_when_added_and_removed() -> None:
    """By kind and name."""
    everything = inventory(POOL, MODEL, OBJECTIVE, REWRITE, ROUTE)
    names = [
        "HTTPRoute default/qwen-backend",
        "InferenceModel default/inferencemodel-qwen",
        "InferenceModelRewrite default/canary",
        "InferenceObjective default/batch",
        "InferencePool inference.networking.x-k8s.io/default/vllm-qwen-pool",
    ]
    assert list(changes(inventory(), everything)) == [f"{name} added" for name in names]
    assert list(changes(everything, inventory())) == [f"{name} deleted" for name in names]


def test_a_change_of_strategy_is_reported_from_and_to() -> None:
    """Operators look for it in the log."""
    pool = the_object(POOL)
    assert isinstance(pool, InferencePool)
    after = Inventory(Resources.of([replace(pool, strategy=RoutingStrategy.PREFIX_CACHE)]), ())
    [line] = changes(inventory(POOL), after)
    assert line.endswith("vllm-qwen-pool: routing-strategy DEFAULT -> PREFIX_CACHE")


def test_a_change_of_settings_is_reported_from_and_to() -> None:
    pool = the_object(POOL)
    assert isinstance(pool, InferencePool)
    settings = PoolSettings(flow_control=True, scrape_interval_s=1.0)
    after = Inventory(Resources.of([replace(pool, settings=settings)]), ())
    [line] = changes(inventory(POOL), after)
    assert line.endswith("vllm-qwen-pool: flow-control unset -> true, scrape-interval unset -> 1.0")


def test_any_other_change_is_reported_by_name() -> None:
    """For example of a weight or a priority."""
    [line] = changes(inventory(OBJECTIVE), inventory(OBJECTIVE.replace("-10", "-5")))
    assert line == "InferenceObjective default/batch changed"


def test_servers_join_leave_and_change() -> None:
    """One line each."""
    before, after = inventory(servers=(A, B)), inventory(servers=(replace(A, port=1), replace(B, name="c")))
    assert list(changes(before, after)) == [
        "model server default/a changed",
        "model server default/b left",
        "model server default/c joined",
    ]


def test_a_server_that_begins_to_terminate_is_reported() -> None:
    leaving = replace(A, terminating=True)
    [line] = changes(inventory(servers=(A,)), inventory(servers=(leaving,)))
    assert line == "model server default/a terminates"
    assert list(changes(inventory(servers=(leaving,)), inventory())) == ["model server default/a left"]


def test_servers_of_one_name_in_two_namespaces_are_two() -> None:
    """Each is reported."""
    other = replace(A, namespace="other")
    assert list(changes(inventory(servers=(A,)), inventory(servers=(A, other)))) == ["model server other/a joined"]
