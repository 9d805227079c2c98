"""Envoy accepts the translation of every valid HTTPRoute. It would reject all routes of a listener for one."""

import subprocess
from pathlib import Path
from typing import Any

import yaml
from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from gateway_objects import SURROUNDINGS, gateway, policy, pool, service, to_pool, to_service
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
ODD_NAMES = st.sampled_from(["a", "Host", "host", ":path", "content-length", "x" * 256, "Te"])
NAMES = st.one_of(ODD_NAMES, st.text(PLAIN, max_size=5))
PATHS = st.one_of(TEXT, TEXT.map("/".__add__), st.sampled_from(["/", "//", "/a/", "/a//b/", "/..", "/*"]))
DURATIONS = st.sampled_from(["0s", "1ms", "10s", "99999h", "99999h99999h99999h99999h", "1h1m1s1ms"])
HOSTS = st.sampled_from(["a.com", "*.a.com", "*.com", "*", "a", "1.2.3.4", "x" * 63 + ".com", "a.com."])

named = st.fixed_dictionaries(
    {"name": NAMES, "value": TEXT}, optional={"type": st.sampled_from(["Exact", "RegularExpression"])}
)
path = st.fixed_dictionaries(
    {"value": PATHS, "type": st.sampled_from(["Exact", "PathPrefix", "RegularExpression"])},
)
match = st.fixed_dictionaries(
    {},
    optional={
        "path": path,
        "headers": st.lists(named, max_size=3),
        "queryParams": st.lists(named, max_size=3),
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
    changes.map(lambda each: {"type": "RequestHeaderModifier", "requestHeaderModifier": each}),
    changes.map(lambda each: {"type": "ResponseHeaderModifier", "responseHeaderModifier": each}),
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


def route(name: str, written: dict[str, Any]) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": name},
            "spec": {"parentRefs": [{"name": "gw"}], **written},
        }
    )


def inlined(made: EnvoyConfig, folder: Path) -> bootstrap_pb2.Bootstrap:
    """With everything in it: Envoy reads the files of routes only once it runs."""
    configurations = {each.name: each for each in made.route_configurations}
    whole = bootstrap("127.0.0.1", 1, folder)
    whole.ClearField("dynamic_resources")
    whole.static_resources.clusters.extend(made.clusters)
    for each in made.listeners:
        listener = whole.static_resources.listeners.add()
        listener.CopyFrom(each)
        packed_manager = listener.filter_chains[0].filters[0].typed_config
        manager = hcm_pb2.HttpConnectionManager.FromString(packed_manager.value)
        manager.route_config.CopyFrom(configurations[manager.rds.route_config_name])
        # As in a configuration that Envoy fetches: a share may lead to no cluster.
        manager.route_config.validate_clusters.value = False
        packed_manager.CopyFrom(pack_any(manager))
    return whole


@settings(
    max_examples=15,
    deadline=None,
    # The same routes in each run. `--hypothesis-seed` has no effect then: remove this to search on.
    derandomize=True,
    # No shrinking: each example starts an Envoy.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(spec, min_size=1, max_size=12), timeouts)
def test_envoy_takes_every_route_that_is_valid(
    tmp_path: Path, specs: list[dict[str, Any]], limits: dict[str, Any]
) -> None:
    """Many routes a run, each in a file of its own: a wrong one is left out as `picker validate` names it."""
    texts = [route(f"r{index}", each) for index, each in enumerate(specs)]
    texts += [gateway({"name": "http", "port": 18080}), pool("a", "FailOpen"), service("s")]
    texts.append(policy({"kind": "Gateway", "name": "gw"}, **limits))
    read = [each for text in texts for each in parse(text, "test.yaml")]
    made = translate(Resources.of(each.object for each in read if isinstance(each, Parsed)), SURROUNDINGS)
    written = tmp_path / "bootstrap.json"
    written.write_text(MessageToJson(inlined(made, tmp_path)))
    command = [envoy_binary(None), "--mode", "validate", "--log-level", "error", "--config-path", written]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
