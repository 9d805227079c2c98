"""Translation of Gateways, routes and pools to one configuration of Envoy."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2, protocol_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from gateway_objects import (  # fmt: skip
    OPTIONS,
    config,
    gateway,
    policy,
    pool,
    resources,
    route,
    service,
    to_pool,
    to_service,
)
from google.protobuf.json_format import MessageToJson
from manifests import TUTORIAL
from picker.commands.standalone.envoy_process import envoy_binary
from picker.xds.bootstrap import bootstrap, routes_file
from picker.xds.config_source import file_source
from picker.xds.file_config import FileConfig
from picker.xds.protobuf import pack_any
from picker.xds.translate import PICKER_CLUSTER, EnvoyConfig, translate

FILES = [*sorted(TUTORIAL.glob("*.yaml")), TUTORIAL.parent / "vllm-service.yaml"]
GATEWAY = gateway({"name": "http", "port": 80})
TO_A = route({"backendRefs": [to_pool("a")]})


def tutorial(**edits: str) -> EnvoyConfig:
    texts = [path.read_text() for path in FILES if path.name != "vllm-benchmark.yaml"]
    for old, new in edits.items():
        texts = [text.replace(old, new) for text in texts]
    return config(*texts)


def hosts(made: EnvoyConfig) -> dict[str, list[str]]:
    """Returns for each route configuration its host names, with the number of their routes."""
    return {
        configuration.name: [f"{host.domains[0]} {len(host.routes)}" for host in configuration.virtual_hosts]
        for configuration in made.route_configurations
    }


def test_tutorial_gives_two_listeners_and_their_clusters() -> None:
    made = tutorial()
    assert [listener.name for listener in made.listeners] == [
        "default/qwen-inference-gateway/http",
        "default/qwen-inference-gateway/llm-gw",
    ]
    assert [cluster.name for cluster in made.clusters] == [
        "inferencepool-picker",
        "inferencepool/inference.networking.x-k8s.io/default/vllm-qwen-pool",
        "service/default/qwen/8000",
    ]
    plain, picked = (str(listener) for listener in made.listeners)
    assert "ext_proc" in picked
    assert "ext_proc" not in plain


def test_stat_name_of_a_pool_has_no_dot() -> None:
    """Envoy ends the name of a cluster at a dot."""
    made = translate(resources(GATEWAY, pool("qwen2.5"), route({"backendRefs": [to_pool("qwen2.5")]})), OPTIONS)
    assert [cluster.alt_stat_name for cluster in made.clusters if cluster.alt_stat_name] == [
        "inferencepool/default/qwen2_5"
    ]


def test_envoy_accepts_the_tutorials_configuration(tmp_path: Path) -> None:
    options = replace(OPTIONS, route_source=lambda name: file_source(tmp_path / routes_file(name)))
    texts = [path.read_text() for path in FILES if path.name != "vllm-benchmark.yaml"]
    made = translate(resources(*texts), options)
    files = FileConfig(tmp_path)
    files.write_clusters(made)
    files.write_routes(made)
    files.write_listeners(made)
    _validate(tmp_path, bootstrap("127.0.0.1", 9901, tmp_path))


def _validate(folder: Path, config: bootstrap_pb2.Bootstrap) -> None:
    """Runs Envoy's validation on `config`."""
    path = folder / "bootstrap.json"
    path.write_text(MessageToJson(config))
    validation = subprocess.run(
        [envoy_binary(None), "--mode", "validate", "--config-path", path], capture_output=True, text=True, check=False
    )
    assert validation.returncode == 0, validation.stderr
    assert "OK" in validation.stdout


def test_envoy_accepts_unusual_valid_objects(tmp_path: Path) -> None:
    """Envoy reads routes at run time, where a rejected configuration would block all edits."""
    changes = {
        "type": "RequestHeaderModifier",
        "requestHeaderModifier": {"set": [{"name": "x", "value": '100% %FOO% "\u00e9"'}], "remove": ["Y"]},
    }
    unusual = route(
        {"backendRefs": [to_pool("a"), to_pool("a"), to_pool("gone")], "filters": [changes]},
        {"backendRefs": [to_pool("a", weight=1_000_000)] * 16, "matches": [{"method": "OPTIONS"}]},
        {
            "backendRefs": [to_service("gone")],
            "matches": [
                {"path": {"type": "RegularExpression", "value": r"/v\d+/(a|b)[^/]{1,9}"}},
                {"path": {"type": "PathPrefix", "value": "//a b/%2f/\u00e9/"}},
                {"headers": [{"name": "A", "value": "^x$", "type": "RegularExpression"}, {"name": "A", "value": "%"}]},
                {"queryParams": [{"name": "q", "value": ".*", "type": "RegularExpression"}]},
            ],
            "timeouts": {"request": "0s", "backendRequest": "0s"},
        },
        hostnames=["a.com", "*.a.com", "a.com"],
    )
    made = config(gateway({"name": "http", "port": 18080}), pool("a"), unusual)
    [listener] = made.listeners
    packed_manager = listener.filter_chains[0].filters[0].typed_config
    manager = http_connection_manager_pb2.HttpConnectionManager.FromString(packed_manager.value)
    manager.route_config.CopyFrom(made.route_configurations[0])
    # Envoy's default for routes that it reads at run time.
    manager.route_config.validate_clusters.value = False
    packed_manager.CopyFrom(pack_any(manager))
    static = bootstrap_pb2.Bootstrap.StaticResources(listeners=[listener], clusters=made.clusters)
    node = base_pb2.Node(id="test", cluster="test")
    _validate(tmp_path, bootstrap_pb2.Bootstrap(node=node, static_resources=static))


def test_translation_does_not_depend_on_object_order() -> None:
    texts = [GATEWAY, pool("a"), pool("b"), service("s"), TO_A, route({"backendRefs": [to_service("s")]}, name="z")]
    one, other = config(*texts), config(*reversed(texts))
    assert one == other
    for kind in ("listeners", "route_configurations", "clusters"):
        assert [message.SerializeToString() for message in getattr(one, kind)] == [
            message.SerializeToString() for message in getattr(other, kind)
        ]


def test_strategy_does_not_change_the_translation() -> None:
    assert tutorial(DEFAULT="PREFIX_CACHE") == tutorial()


def test_edited_timeout_changes_only_routes() -> None:
    before, after = tutorial(), tutorial(**{"requestTimeout: 1h": "requestTimeout: 2h"})
    assert before.route_configurations != after.route_configurations
    assert (before.listeners, before.clusters) == (after.listeners, after.clusters)


def test_gateway_without_routes_has_a_listener() -> None:
    made = config(GATEWAY)
    assert hosts(made) == {"default/gw/http": []}
    assert made.clusters == ()


def test_pool_without_a_route_has_no_cluster() -> None:
    assert [cluster.name for cluster in config(GATEWAY, pool("a"), pool("b"), TO_A).clusters] == [
        PICKER_CLUSTER,
        "inferencepool/inference.networking.x-k8s.io/default/a",
    ]


def test_route_attaches_to_the_listeners_of_its_parent_refs() -> None:
    gw = gateway({"name": "one", "port": 81}, {"name": "two", "port": 82}, {"name": "three", "port": 83})
    rule: dict[str, object] = {"backendRefs": [to_pool("a")]}
    by_section = route(rule, name="s", parentRefs=[{"name": "gw", "sectionName": "one"}])
    by_port = route(rule, name="p", parentRefs=[{"name": "gw", "port": 82}])
    elsewhere = route(rule, name="e", parentRefs=[{"name": "other"}])
    assert hosts(config(gw, pool("a"), by_section, by_port, elsewhere)) == {
        "default/gw/one": ["* 1"],
        "default/gw/two": ["* 1"],
        "default/gw/three": [],
    }


@pytest.mark.parametrize(("allowed", "expected"), [("Same", []), ("All", ["* 1"])])
def test_route_of_another_namespace_needs_permission(allowed: str, expected: list[str]) -> None:
    gw = gateway({"name": "http", "port": 80, "allowedRoutes": {"namespaces": {"from": allowed}}})
    there = route({"backendRefs": []}, namespace="other", parentRefs=[{"name": "gw", "namespace": "default"}])
    assert hosts(config(gw, there)) == {"default/gw/http": expected}


def test_listeners_on_one_port_are_merged() -> None:
    gw = gateway(
        {"name": "a", "port": 80, "hostname": "a.com"},
        {"name": "b", "port": 80, "hostname": "*.b.com"},
        {"name": "any", "port": 80},
    )
    route_with_hosts = route({"backendRefs": [to_pool("a")]}, hostnames=["x.b.com", "a.com"])
    made = config(gw, pool("a"), route_with_hosts)
    assert [listener.name for listener in made.listeners] == ["default/gw/a"]
    assert hosts(made) == {"default/gw/a": ["a.com 2", "x.b.com 2"]}
    assert made.conflicts == ()


def test_listener_with_used_port_and_host_name_is_a_conflict() -> None:
    made = config(gateway({"name": "x", "port": 80}, name="gw"), gateway({"name": "y", "port": 80}, name="later"))
    assert [listener.name for listener in made.listeners] == ["default/gw/x"]
    assert made.conflicts == ("listener default/later/y: port 80 is used by listener default/gw/x",)


def test_strictest_connection_timeouts_apply_to_clusters() -> None:
    target: dict[str, object] = {"kind": "Gateway", "name": "gw"}
    texts = [GATEWAY, pool("a"), service("s"), route({"backendRefs": [to_pool("a"), to_service("s")]})]
    timeouts = policy(
        target, tcp={"connectTimeout": "3s"}, http={"connectionIdleTimeout": "60s", "maxConnectionDuration": "1h"}
    )
    _, of_pool, of_service = config(*texts, timeouts).clusters
    assert (of_service.connect_timeout.seconds, of_pool.connect_timeout.seconds) == (3, 3)
    assert _common_options(of_service).idle_timeout.seconds == 60
    assert _common_options(of_pool).idle_timeout.seconds < 5, "the servers close connections earlier than the policy"
    assert _common_options(of_pool).max_connection_duration.seconds == 3600


def _common_options(cluster: cluster_pb2.Cluster) -> protocol_pb2.HttpProtocolOptions:
    [options] = cluster.typed_extension_protocol_options.values()
    return http_protocol_options_pb2.HttpProtocolOptions.FromString(options.value).common_http_protocol_options


def test_files_are_replaced_only_when_their_content_changes(tmp_path: Path) -> None:
    files = FileConfig(tmp_path)
    made = config(GATEWAY, pool("a"), TO_A)
    versions = files.write_clusters(made) | files.write_routes(made) | files.write_listeners(made)
    written = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    assert versions == files.write_clusters(made) | files.write_routes(made) | files.write_listeners(made)
    assert {path.name: path.stat().st_ino for path in tmp_path.iterdir()} == written
    other = config(GATEWAY, pool("a"), pool("b"), route({"backendRefs": [to_pool("b")]}))
    files.write_clusters(made, other)
    files.write_routes(other)
    changed = {name for name, inode in written.items() if (tmp_path / name).stat().st_ino != inode}
    assert changed == {"clusters.json", "routes-default_gw_http.json"}
    assert all(f"/default/{name}" in (tmp_path / "clusters.json").read_text() for name in "ab")


def test_routes_of_a_deleted_listener_are_deleted(tmp_path: Path) -> None:
    files = FileConfig(tmp_path)
    a, b = ({"name": name, "port": port} for name, port in (("a", 81), ("b", 82)))
    before, after = config(gateway(a, b)), config(gateway(a))
    for made in (before, after):
        files.write_routes(made)
        files.write_listeners(made)
    assert [path.name for path in tmp_path.glob("routes-*")] == ["routes-default_gw_a.json"]
    assert OPTIONS.listen_ip in (tmp_path / "listeners.json").read_text()
