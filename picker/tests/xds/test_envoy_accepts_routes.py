"""Envoy accepts the translation of every valid HTTPRoute. It would reject all routes of a listener for one."""

import subprocess
from pathlib import Path
from typing import Any

import yaml
from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from gateway_objects import OPTIONS, gateway, policy, pool, service, to_pool, to_service
from google.protobuf.json_format import MessageToJson
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from picker.commands.standalone.envoy_process import envoy_binary
from picker.resources.objects import Resources
from picker.resources.parse import Parsed, parse
from picker.xds.bootstrap import bootstrap
from picker.xds.protobuf import pack_any
from picker.xds.translate import EnvoyConfig, translate

PLAIN = "aZ0-_.~%:/?#[]@!$&'()*+,;= \"<>\\^`{|}"
LONG = st.sampled_from(["", "x" * 1024, "x" * 4096, "é" * 900])
TEXT = st.one_of(st.text(PLAIN, max_size=8), st.text(max_size=8), LONG)
SPECIAL_NAMES = st.sampled_from(["a", "Host", "host", ":path", "content-length", "x" * 256, "Te"])
NAMES = st.one_of(SPECIAL_NAMES, st.text(PLAIN, max_size=5))
PATHS = st.one_of(TEXT, TEXT.map("/".__add__), st.sampled_from(["/", "//", "/a/", "/a//b/", "/..", "/*"]))
DURATIONS = st.sampled_from(["0s", "1ms", "10s", "99999h", "99999h99999h99999h99999h", "1h1m1s1ms"])
HOSTS = st.sampled_from(["a.com", "*.a.com", "*.com", "*", "a", "1.2.3.4", "x" * 63 + ".com", "a.com."])

named_match = st.fixed_dictionaries(
    {"name": NAMES, "value": TEXT}, optional={"type": st.sampled_from(["Exact", "RegularExpression"])}
)
path = st.fixed_dictionaries(
    {"value": PATHS, "type": st.sampled_from(["Exact", "PathPrefix", "RegularExpression"])},
)
match = st.fixed_dictionaries(
    {},
    optional={
        "path": path,
        "headers": st.lists(named_match, max_size=3),
        "queryParams": st.lists(named_match, max_size=3),
        "method": st.sampled_from(["GET", "CONNECT"]),
    },
)
header = st.fixed_dictionaries({"name": NAMES, "value": TEXT})
changes = st.fixed_dictionaries(
    {},
    optional={
        "set": st.lists(header, max_size=2), "add": st.lists(header, max_size=2), "remove": st.lists(NAMES, max_size=2)
    },
)  # fmt: skip
filters = st.one_of(
    changes.map(lambda change: {"type": "RequestHeaderModifier", "requestHeaderModifier": change}),
    changes.map(lambda change: {"type": "ResponseHeaderModifier", "responseHeaderModifier": change}),
)
WEIGHTS = st.sampled_from([0, 1, 1_000_000])
backend = st.one_of(
    WEIGHTS.map(lambda weight: to_pool("a", weight=weight)),
    WEIGHTS.map(lambda weight: to_pool("gone", weight=weight)),
    WEIGHTS.map(lambda weight: to_service("s", weight=weight)),
)
rule = st.fixed_dictionaries(
    {"backendRefs": st.lists(backend, max_size=16)},
    optional={
        "matches": st.lists(match, max_size=4),
        "filters": st.lists(filters, max_size=3),
        "timeouts": st.fixed_dictionaries({}, optional={"request": DURATIONS, "backendRequest": DURATIONS}),
    },
)
spec = st.fixed_dictionaries({"rules": st.lists(rule, max_size=3)}, optional={"hostnames": st.lists(HOSTS, max_size=3)})
timeouts = st.fixed_dictionaries(
    {},
    optional={
        "tcp": st.fixed_dictionaries({"connectTimeout": DURATIONS}),
        "http": st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("requestTimeout", "connectionIdleTimeout", "maxConnectionDuration"), DURATIONS)
        ),
    },
)


def route(name: str, spec: dict[str, Any]) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": name},
            "spec": {"parentRefs": [{"name": "gw"}], **spec},
        }
    )


def inlined(config: EnvoyConfig, folder: Path) -> bootstrap_pb2.Bootstrap:
    """Returns a bootstrap that holds the whole configuration, because Envoy reads route files only when it runs."""
    configurations = {configuration.name: configuration for configuration in config.route_configurations}
    whole = bootstrap("127.0.0.1", 1, folder)
    whole.ClearField("dynamic_resources")
    whole.static_resources.clusters.extend(config.clusters)
    for source in config.listeners:
        listener = whole.static_resources.listeners.add()
        listener.CopyFrom(source)
        packed_manager = listener.filter_chains[0].filters[0].typed_config
        manager = hcm_pb2.HttpConnectionManager.FromString(packed_manager.value)
        manager.route_config.CopyFrom(configurations[manager.rds.route_config_name])
        # As in a configuration that Envoy fetches: a weighted cluster may not exist.
        manager.route_config.validate_clusters.value = False
        packed_manager.CopyFrom(pack_any(manager))
    return whole


@settings(
    max_examples=15,
    deadline=None,
    # The same routes in each run. `--hypothesis-seed` has no effect then: remove this to search further.
    derandomize=True,
    # No shrinking: each example starts an Envoy.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(spec, min_size=1, max_size=12), timeouts)
def test_envoy_accepts_every_valid_route(tmp_path: Path, specs: list[dict[str, Any]], limits: dict[str, Any]) -> None:
    """Each run has many routes, each in its own file. Invalid ones are left out, as `picker validate` reports them."""
    texts = [route(f"r{index}", spec) for index, spec in enumerate(specs)]
    texts += [gateway({"name": "http", "port": 18080}), pool("a", "FailOpen"), service("s")]
    texts.append(policy({"kind": "Gateway", "name": "gw"}, **limits))
    results = [result for text in texts for result in parse(text, "test.yaml")]
    objects = Resources.of(result.object for result in results if isinstance(result, Parsed))
    bootstrap_path = tmp_path / "bootstrap.json"
    bootstrap_path.write_text(MessageToJson(inlined(translate(objects, OPTIONS), tmp_path)))
    command = [envoy_binary(None), "--mode", "validate", "--log-level", "error", "--config-path", bootstrap_path]
    validation = subprocess.run(command, capture_output=True, text=True, check=False)
    assert validation.returncode == 0, validation.stderr
