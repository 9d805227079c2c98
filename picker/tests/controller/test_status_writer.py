"""Statuses are written for every object; an invalid one affects no other."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import web
from api_server import api_servers
from hypothesis import given
from hypothesis import strategies as st
from lightkube.config.kubeconfig import SingleConfig
from picker.controller.model_status import model_claims, model_conditions, rewrite_claims, rewrite_conditions
from picker.controller.pool_status import ConditionResult
from picker.controller.status_writer import StatusWriter
from picker.resources.names import POOL_GROUP_V1ALPHA2
from picker.sources.informer import kubernetes_client

REWRITES = f"/apis/{POOL_GROUP_V1ALPHA2}/v1alpha2/inferencemodelrewrites"
MODELS = f"/apis/{POOL_GROUP_V1ALPHA2}/v1alpha2/inferencemodels"
NOW = "2026-01-01T00:00:00Z"


def rewrite(name: str, models: Sequence[str], **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"{POOL_GROUP_V1ALPHA2}/v1alpha2",
        "kind": "InferenceModelRewrite",
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "resourceVersion": "1", "creationTimestamp": NOW,
            "generation": 1, **metadata,
        },
        "spec": {
            "poolRef": {"name": "red"},
            "rules": [{"matches": [{"model": {"value": name}} for name in models], "targets": [{"modelRewrite": "t"}]}],
        },
    }  # fmt: skip


def model(name: str, model_name: str) -> dict[str, Any]:
    base = rewrite(name, ())
    return {**base, "kind": "InferenceModel", "spec": {"poolRef": {"name": "red"}, "modelName": model_name}}


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256)


@given(st.lists(st.lists(NAMES, max_size=8), min_size=1, max_size=4), st.integers(1, 256))
def test_statuses_of_any_rewrites_are_valid(lists: list[list[str]], times: int) -> None:
    """`ConditionResult.condition` raises for what the CRD rejects."""
    objects = [
        rewrite(f"r{number}", [f"{name[:250]}{copy}" for name in names for copy in range(times)][:256])
        for number, names in enumerate(lists)
    ]
    claims = rewrite_claims(objects)
    for object_ in objects:
        assert all(_fits(condition) for condition in rewrite_conditions(object_, claims, ()))


@given(st.lists(NAMES, min_size=1, max_size=20))
def test_statuses_of_any_models_are_valid(names: list[str]) -> None:
    objects = [model(f"m{number}", name) for number, name in enumerate(names)]
    claims = model_claims(objects)
    for object_ in objects:
        assert all(_fits(condition) for condition in model_conditions(object_, claims, ()))


def _fits(condition: ConditionResult) -> bool:
    return len(condition.condition(1, NOW, ()).message) <= 32_768


def test_message_is_shortened_to_the_limit_of_the_api() -> None:
    condition = ConditionResult("Accepted", True, "Accepted", "x" * 100_000)
    assert len(condition.condition(1, NOW, ()).message) == 32_768


def test_unreadable_object_owns_no_name() -> None:
    broken = {**rewrite("a", ["chat"]), "spec": {}}
    claims = rewrite_claims([broken, rewrite("b", ["chat"])])
    assert set(claims.values()) == {"b"}


async def run_until_written(config: SingleConfig, written: list[str], count: int) -> None:
    writer = StatusWriter(kubernetes_client(config), "controller", lambda service: service)
    task = asyncio.create_task(writer.run())
    async with asyncio.timeout(10):
        while len(written) < count and not task.done():  # noqa: ASYNC110 (the writer's own work)
            await asyncio.sleep(0.01)
    assert not task.done()
    task.cancel()


@pytest.mark.parametrize(
    "broken",
    [
        {"spec": {}},
        {"spec": {"poolRef": {"name": "red"}, "rules": 7}},
        {"spec": None},
        {"status": {"conditions": [None]}},
        {"status": 7},
    ],
    ids=str,
)
async def test_invalid_object_does_not_affect_other_statuses(broken: dict[str, Any]) -> None:
    """An API server with another version of the CRD may accept it."""
    written: list[str] = []

    async def patch(request: web.Request) -> web.Response:
        written.append(request.match_info["name"])
        return web.json_response(rewrite("a", ()))

    async with api_servers(REWRITES, patched=patch) as ([server], config):
        server.objects = [{**rewrite("a", ["chat"]), **broken}, rewrite("b", ["code"])]
        await run_until_written(config, written, 1)
        server.events.put_nowait(None)
    assert "b" in written


@pytest.mark.parametrize("status", [403, 422, 500])
async def test_rejected_write_does_not_affect_other_statuses(status: int) -> None:
    written: list[str] = []

    async def patch(request: web.Request) -> web.Response:
        if request.match_info["name"] == "a":
            return web.Response(status=status, text="no")
        written.append(request.match_info["name"])
        return web.json_response(rewrite("b", ()))

    async with api_servers(REWRITES, patched=patch) as ([server], config):
        server.objects = [rewrite("a", ["chat"]), rewrite("b", ["code"])]
        await run_until_written(config, written, 1)
        server.events.put_nowait(None)
    assert written == ["b"]
