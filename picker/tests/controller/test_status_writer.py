"""Statuses are written for every object, whatever one of them holds."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import web
from api_server import api_servers
from hypothesis import given
from hypothesis import strategies as st
from lightkube.config.kubeconfig import SingleConfig
from picker.controller.model_status import model_claims, model_findings, rewrite_claims, rewrite_findings
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
            "rules": [{"matches": [{"model": {"value": each}} for each in models], "targets": [{"modelRewrite": "t"}]}],
        },
    }  # fmt: skip


def model(name: str, model_name: str) -> dict[str, Any]:
    made = rewrite(name, ())
    return {**made, "kind": "InferenceModel", "spec": {"poolRef": {"name": "red"}, "modelName": model_name}}


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256)


@given(st.lists(st.lists(NAMES, max_size=8), min_size=1, max_size=4), st.integers(1, 256))
def test_any_rewrites_have_statuses_that_the_api_server_takes(lists: list[list[str]], times: int) -> None:
    """`ConditionResult.condition` raises for what the CRD would refuse."""
    objects = [
        rewrite(f"r{number}", [f"{name[:250]}{copy}" for name in names for copy in range(times)][:256])
        for number, names in enumerate(lists)
    ]
    claims = rewrite_claims(objects)
    for each in objects:
        assert all(_fits(finding) for finding in rewrite_findings(each, claims, ()))


@given(st.lists(NAMES, min_size=1, max_size=20))
def test_any_models_have_statuses_that_the_api_server_takes(names: list[str]) -> None:
    objects = [model(f"m{number}", name) for number, name in enumerate(names)]
    claims = model_claims(objects)
    for each in objects:
        assert all(_fits(finding) for finding in model_findings(each, claims, ()))


def _fits(finding: ConditionResult) -> bool:
    return len(finding.condition(1, NOW, ()).message) <= 32_768


def test_a_message_is_cut_at_the_bound_of_the_api() -> None:
    finding = ConditionResult("Accepted", True, "Accepted", "x" * 100_000)
    assert len(finding.condition(1, NOW, ()).message) == 32_768


def test_an_object_that_cannot_be_read_claims_no_name() -> None:
    broken = {**rewrite("a", ["chat"]), "spec": {}}
    claims = rewrite_claims([broken, rewrite("b", ["chat"])])
    assert set(claims.values()) == {"b"}


async def _written(config: SingleConfig, written: list[str], wanted: int) -> None:
    writer = StatusWriter(kubernetes_client(config), "controller", lambda service: service)
    task = asyncio.create_task(writer.run())
    async with asyncio.timeout(10):
        while len(written) < wanted and not task.done():  # noqa: ASYNC110 (the writer's own work)
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
async def test_one_broken_object_keeps_no_other_from_its_status(broken: dict[str, Any]) -> None:
    """An API server with another version of the CRD lets through what ours refuses."""
    written: list[str] = []

    async def patch(request: web.Request) -> web.Response:
        written.append(request.match_info["name"])
        return web.json_response(rewrite("a", ()))

    async with api_servers(REWRITES, patched=patch) as ([server], config):
        server.objects = [{**rewrite("a", ["chat"]), **broken}, rewrite("b", ["code"])]
        await _written(config, written, 1)
        server.events.put_nowait(None)
    assert "b" in written


@pytest.mark.parametrize("status", [403, 422, 500])
async def test_a_status_that_is_refused_keeps_no_other_from_its_own(status: int) -> None:
    written: list[str] = []

    async def patch(request: web.Request) -> web.Response:
        if request.match_info["name"] == "a":
            return web.Response(status=status, text="no")
        written.append(request.match_info["name"])
        return web.json_response(rewrite("b", ()))

    async with api_servers(REWRITES, patched=patch) as ([server], config):
        server.objects = [rewrite("a", ["chat"]), rewrite("b", ["code"])]
        await _written(config, written, 1)
        server.events.put_nowait(None)
    assert written == ["b"]
