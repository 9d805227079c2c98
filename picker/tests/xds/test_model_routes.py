"""Routing by the model: what is added to listeners and hosts, and what is not."""

import json
import time
from collections.abc import Mapping

import pytest
import yaml
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.basic_auth.v3 import basic_auth_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from gateway_objects import OPTIONS, config, gateway, pool, resources, route, service, to_pool, to_service
from google.protobuf.any_pb2 import Any
from google.protobuf.json_format import MessageToDict
from picker.xds.ext_proc_filter import FILTER_NAME
from picker.xds.model_filter import MODEL_FILTER, with_model_filter
from picker.xds.model_names import DeclaredModels
from picker.xds.model_routes import MODELS_PATH, with_model_routing
from picker.xds.protobuf import pack_any
from picker.xds.translate import translate

GATEWAY = gateway({"name": "http", "port": 80})
MODEL, BASE = "X-Gateway-Model-Name", "X-Gateway-Base-Model-Name"
ADDED = ["models", "anthropic-models", "read-model", "model-not-found", "no-route"]


def by(value: str, backend: dict[str, object], header: str = MODEL, kind: str = "Exact") -> dict[str, object]:
    condition = {"type": kind, "name": header, "value": value}
    return {"matches": [{"headers": [condition]}], "backendRefs": [backend]}


def model(name: str, of_pool: str, created: str | None = None) -> str:
    metadata = {"name": name.replace("/", "-").lower(), **({"creationTimestamp": created} if created else {})}
    return yaml.safe_dump(
        {
            "apiVersion": "inference.networking.x-k8s.io/v1alpha2",
            "kind": "InferenceModel",
            "metadata": metadata,
            "spec": {"modelName": name, "poolRef": {"name": of_pool}},
        }
    )


def rewrite(of_pool: str, *models: str) -> str:
    pool_ref = {"name": of_pool, "group": "inference.networking.x-k8s.io"}
    rule = {"matches": [{"model": {"value": name}} for name in models], "targets": [{"modelRewrite": "served"}]}
    return yaml.safe_dump(
        {
            "apiVersion": "llm-d.ai/v1alpha2",
            "kind": "InferenceModelRewrite",
            "metadata": {"name": "rewrite"},
            "spec": {"poolRef": pool_ref, "rules": [rule]},
        }
    )


def adapters(base: str, *names: str, namespace: str = "default", created: str = "2026-01-01T00:00:00Z") -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": base,
                "namespace": namespace,
                "labels": {"inference.llm-d.ai/ipp-managed": "true"},
                "creationTimestamp": created,
            },
            "data": {"baseModel": base, "adapters": yaml.safe_dump(list(names))},
        }
    )


def routes(*texts: str) -> list[route_components_pb2.Route]:
    """Returns the routes of the only host of a Gateway with `texts`."""
    [configuration] = config(GATEWAY, *texts).route_configurations
    [host] = configuration.virtual_hosts
    return list(host.routes)


def short_names(made: list[route_components_pb2.Route]) -> list[str]:
    return [each.name.removeprefix("inference-gateway/").removeprefix("httproute/default/") for each in made]


def named(made: list[route_components_pb2.Route], name: str) -> route_components_pb2.Route:
    return next(each for each in made if each.name == f"inference-gateway/{name}")


def listed(*texts: str) -> list[str]:
    """Returns the names of the list of models."""
    body = named(routes(*texts), "models").direct_response.body.inline_string
    return [item["id"] for item in json.loads(body)["data"]]


def bases(*texts: str) -> dict[str, str]:
    """Returns the base models by adapter that the filter uses."""
    settings = named(routes(*texts), "read-model").typed_per_filter_config[MODEL_FILTER]
    return MessageToDict(lua_pb2.LuaPerRoute.FromString(settings.value)).get("filterContext", {})


def test_gateway_without_a_route_by_model_is_unchanged() -> None:
    other = route({"matches": [{"headers": [{"name": "x-model", "value": "a"}]}], "backendRefs": [to_pool("a")]})
    made = config(GATEWAY, pool("a"), model("m", "a"), other, adapters("base", "lora"))
    assert made == config(GATEWAY, pool("a"), other)
    assert "lua" not in str(made)


def test_only_hosts_with_a_route_by_model_get_routes() -> None:
    plain = route({"backendRefs": [to_pool("a")]}, name="plain", hostnames=["plain.com"])
    made = config(GATEWAY, pool("a"), plain, route(by("m", to_pool("a")), hostnames=["models.com"]))
    names = {
        host.domains[0]: short_names(list(host.routes))
        for configuration in made.route_configurations
        for host in configuration.virtual_hosts
    }
    assert names == {
        "models.com": ["anthropic-models", "models", "read-model", "r/rule/0/match/0", "model-not-found", "no-route"],
        "plain.com": ["plain/rule/0/match/0"],
    }
    alone = config(GATEWAY, pool("a"), plain).route_configurations[0].virtual_hosts[0]
    assert made.route_configurations[0].virtual_hosts[1] == alone


def test_header_names_are_case_insensitive() -> None:
    assert "inference-gateway/read-model" in [each.name for each in routes(route(by("m", to_pool("a"), MODEL.upper())))]


def test_routes_before_the_first_by_model_are_not_read() -> None:
    """They are selected whatever the body says."""
    files = {"matches": [{"path": {"value": "/files"}}], "backendRefs": [to_pool("a")]}
    made = routes(pool("a"), route(files, by("m", to_pool("a")), {"backendRefs": [to_pool("a")]}))
    assert short_names(made) == [
        "anthropic-models",
        "models",
        "r/rule/0/match/0",
        "read-model",
        "r/rule/1/match/0",
        "r/rule/2/match/0",
        "model-not-found",
        "no-route",
    ]


@pytest.mark.parametrize("path", [{"type": "Exact", "value": MODELS_PATH}, {"value": MODELS_PATH}])
def test_a_users_route_for_the_list_precedes_the_added_one(path: dict[str, str]) -> None:
    own = {"matches": [{"path": path}], "backendRefs": [to_pool("a")]}
    made = short_names(routes(pool("a"), route(by("m", to_pool("a")), own)))
    assert made.index("r/rule/1/match/0") < made.index("models")


def test_filters_of_routes_are_enabled_at_first_and_off_for_others() -> None:
    """Envoy creates the chain of filters with the first route."""
    weighted = {**by("w", to_pool("a")), "backendRefs": [to_pool("a"), to_service("s")]}
    made = routes(pool("a"), service("s"), route(by("p", to_pool("a")), by("s", to_service("s")), weighted))
    off = ext_proc_pb2.ExtProcPerRoute(disabled=True)

    def state(filters: Mapping[str, Any]) -> str:
        if FILTER_NAME not in filters:
            return "inherited"
        return "off" if ext_proc_pb2.ExtProcPerRoute.FromString(filters[FILTER_NAME].value) == off else "on"

    states = {each.name.rpartition("httproute/default/r/")[2]: state(each.typed_per_filter_config) for each in made}
    assert states == {
        **{f"inference-gateway/{name}": "off" for name in ADDED},
        "rule/0/match/0": "on",
        "rule/1/match/0": "off",
        "rule/2/match/0": "inherited",
    }
    split = next(each for each in made if each.name.endswith("rule/2/match/0")).route.weighted_clusters.clusters
    assert [state(cluster.typed_per_filter_config) for cluster in split] == ["on", "off"]


def policed(name: str, **settings: Any) -> route_components_pb2.Route:
    """Returns Envoy Gateway's route for a model, with the settings of filters of a SecurityPolicy."""
    condition = route_components_pb2.HeaderMatcher(name=MODEL)
    condition.string_match.exact = name
    made = route_components_pb2.Route(name=f"httproute/default/{name}/rule/0/match/0/*")
    made.match.prefix = "/"
    made.match.headers.append(condition)
    made.route.cluster = f"httproute/default/{name}/rule/0"
    for filter_name, value in settings.items():
        made.typed_per_filter_config[f"envoy.filters.http.{filter_name}"].CopyFrom(value)
    return made


def test_added_routes_require_what_the_first_route_by_model_requires() -> None:
    """The list of models would otherwise be public."""
    passwords = pack_any(basic_auth_pb2.BasicAuthPerRoute())
    authz = pack_any(ext_authz_pb2.ExtAuthzPerRoute(check_settings=ext_authz_pb2.CheckSettings()))
    host = route_components_pb2.VirtualHost(
        name="h", domains=["*"], routes=[policed("a", basic_auth=passwords), policed("b", ext_authz=authz)]
    )
    made = with_model_routing(route_pb2.RouteConfiguration(virtual_hosts=[host]), DeclaredModels(), 1 << 20)
    by_name = {each.name: each.typed_per_filter_config for each in made.virtual_hosts[0].routes}
    for name in ADDED:
        added = by_name[f"inference-gateway/{name}"]
        assert added["envoy.filters.http.basic_auth"] == passwords
        assert added["envoy.filters.http.ext_authz"] == authz
    # Envoy can switch off ext_authz for a route. Passwords it cannot: the other route requires them, too.
    off = ext_authz_pb2.ExtAuthzPerRoute.FromString(
        by_name["httproute/default/a/rule/0/match/0/*"]["envoy.filters.http.ext_authz"].value
    )
    assert off.disabled
    assert "envoy.filters.http.basic_auth" not in by_name["httproute/default/b/rule/0/match/0/*"]


def test_routing_is_idempotent() -> None:
    """Different bytes would make Envoy drain its listeners."""
    made = config(GATEWAY, pool("a"), route(by("m", to_pool("a")), by("s", to_service("s"))))
    [configuration], [listener] = made.route_configurations, made.listeners
    assert with_model_routing(configuration, DeclaredModels(), 1 << 20) == configuration
    again = with_model_filter(listener, {configuration.name})
    assert again.SerializeToString(deterministic=True) == listener.SerializeToString(deterministic=True)


def manager(listener: listener_pb2.Listener) -> hcm_pb2.HttpConnectionManager:
    return hcm_pb2.HttpConnectionManager.FromString(listener.filter_chains[0].filters[0].typed_config.value)


def test_the_filter_is_the_first() -> None:
    """Filters after it, such as authorization, have the settings of the final route."""
    [listener] = config(GATEWAY, pool("a"), route(by("m", to_pool("a")))).listeners
    filters = manager(listener).http_filters
    assert [each.name for each in filters] == [MODEL_FILTER, FILTER_NAME, "envoy.filters.http.router"]
    assert filters[0].disabled


def test_the_listeners_buffer_is_not_raised() -> None:
    """Only a request whose body is read gets the larger limit."""
    made = config(GATEWAY, pool("a"), route(by("m", to_pool("a"))))
    assert made.listeners[0].per_connection_buffer_limit_bytes.value == 32 << 10
    reading = named(list(made.route_configurations[0].virtual_hosts[0].routes), "read-model")
    assert reading.request_body_buffer_limit.value == (1 << 20) + (64 << 10)


def test_adapters_do_not_change_the_listener() -> None:
    """Envoy would drain its connections."""
    texts = [GATEWAY, pool("a"), route(by("base", to_pool("a"), BASE))]
    before, after = config(*texts), config(*texts, adapters("base", "lora"))
    assert before.listeners == after.listeners
    assert before.route_configurations != after.route_configurations


def test_adapters_have_the_base_model_of_their_config_map() -> None:
    texts = [route(by("base", to_pool("a"), BASE)), adapters("base", "lora", "7"), adapters("other", "x")]
    assert bases(*texts) == {"lora": "base", "7": "base"}
    assert listed(*texts) == ["7", "base", "lora"]


def test_a_regular_expression_selects_base_models_of_config_maps() -> None:
    texts = [
        route(by("qwen.*", to_pool("a"), BASE, kind="RegularExpression")),
        adapters("qwen3", "x"),
        adapters("llama", "y"),
    ]
    assert bases(*texts) == {"x": "qwen3"}
    assert listed(*texts) == ["qwen3", "x"]


def test_declared_models_of_a_pool_have_its_base_model() -> None:
    texts = [pool("a"), route(by("base", to_pool("a"), BASE)), model("review", "a"), rewrite("a", "old-name")]
    assert bases(*texts) == {"review": "base", "old-name": "base"}
    assert listed(*texts) == ["base", "old-name", "review"]


def test_config_maps_of_other_namespaces_do_not_count() -> None:
    """They could move models of this namespace to another pool."""
    texts = [route(by("base", to_pool("a"), BASE)), adapters("base", "lora", namespace="other")]
    assert bases(*texts) == {}


def test_a_base_model_is_its_own_base() -> None:
    texts = [route(by("a", to_pool("a"), BASE), by("b", to_pool("b"), BASE)), adapters("b", "a")]
    assert bases(*texts) == {}


def test_of_two_base_models_the_older_object_wins() -> None:
    texts = [
        route(by("new|old", to_pool("a"), BASE, kind="RegularExpression")),
        adapters("new", "lora", created="2026-02-01T00:00:00Z"),
        adapters("old", "lora", created="2026-01-01T00:00:00Z"),
    ]
    assert bases(*texts) == {"lora": "old"}


def test_the_list_has_only_models_that_a_route_serves() -> None:
    """A model of a pool may have no route."""
    texts = [
        pool("a"),
        pool("b"),
        route(by("served", to_pool("a")), by("re-.*", to_pool("b"), kind="RegularExpression")),
        *(model(name, "a") for name in ("served", "not-routed")),
        *(model(name, "b") for name in ("re-1", "other")),
    ]
    assert listed(*texts) == ["re-1", "served"]


def test_the_list_has_the_models_behind_a_route_without_a_model() -> None:
    texts = [pool("a"), pool("b"), route(by("m", to_pool("a")), {"backendRefs": [to_pool("b")]}), model("x", "b")]
    assert listed(*texts) == ["m", "x"]


def test_the_list_has_creation_times() -> None:
    texts = [pool("a"), route(by("m", to_pool("a"))), model("m", "a", created="2026-01-31T12:00:00Z")]
    made = routes(*texts)
    [item] = json.loads(named(made, "models").direct_response.body.inline_string)["data"]
    assert item["created"] == 1769860800
    [item] = json.loads(named(made, "anthropic-models").direct_response.body.inline_string)["data"]
    assert item["created_at"] == "2026-01-31T12:00:00Z"


def test_names_are_escaped() -> None:
    name = 'a"},{\\ %REQ(host)% \u00e9'
    assert listed(route(by(name, to_pool("a")))) == [name]


def test_a_list_beyond_envoys_default_limit_raises_it() -> None:
    """A longer body would invalidate all routes."""
    rules = [by(f"model-{number}", to_pool("a")) for number in range(200)]
    [configuration] = config(GATEWAY, route(*rules)).route_configurations
    [host] = configuration.virtual_hosts
    longest = max(len(each.direct_response.body.inline_string) for each in host.routes)
    assert configuration.max_direct_response_body_size_bytes.value == longest > 4096
    [short] = config(GATEWAY, route(rules[0])).route_configurations
    assert not short.HasField("max_direct_response_body_size_bytes")


def test_200_models_translate_in_under_a_second() -> None:
    """Each with a route and a pool of its own, and ten adapters."""
    texts = [GATEWAY, *(pool(f"p-{number}") for number in range(200))]
    for number in range(200):
        rules = [by(f"model-{number}", to_pool(f"p-{number}")), by(f"base-{number}", to_pool(f"p-{number}"), BASE)]
        texts.append(route(*rules, name=f"r-{number}"))
        texts.append(adapters(f"base-{number}", *(f"lora-{number}-{index}" for index in range(10))))
        texts.append(model(f"declared-{number}", f"p-{number}"))
    parsed = resources(*texts)
    started_s = time.process_time()
    [configuration] = translate(parsed, OPTIONS).route_configurations
    took_s = time.process_time() - started_s
    [host] = configuration.virtual_hosts
    body = next(each for each in host.routes if each.name.endswith("/models")).direct_response.body.inline_string
    assert len(json.loads(body)["data"]) == 1000
    print(f"200 models: {took_s:.2f} s of a core")
    assert took_s < 1.0
