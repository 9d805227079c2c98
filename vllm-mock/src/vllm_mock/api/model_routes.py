"""/v1/models, and the routes that load and unload LoRA adapters."""

import time
import uuid

from starlette.requests import Request
from starlette.responses import Response

from vllm_mock.api.api_server import ApiServer, Entry, read
from vllm_mock.api.responses import json_response
from vllm_mock.api.schemas import ModelCard, ModelList, ModelPermission
from vllm_mock.generation.replica import Replica
from vllm_mock.generation.request_body import LoadLoraBody, UnloadLoraBody


def model_routes(api_server: ApiServer) -> list[Entry]:
    async def models(request: Request) -> Response:
        return json_response(model_list(api_server.replica))

    return [
        ("GET", "/v1/models", models),
        *(_lora_routes(api_server) if api_server.replica.options.runtime_lora else []),
    ]


def model_list(replica: Replica) -> ModelList:
    """The base model under each of its names, then the adapters."""
    root = replica.options.root
    base = [_card(name, root, None, replica.max_model_len) for name in replica.models]
    adapters = [_card(name, path, replica.models[0], None) for name, path in replica.loras.paths.items()]
    return ModelList("list", [*base, *adapters])


def _card(name: str, root: str, parent: str | None, max_model_len: int | None) -> ModelCard:
    now = int(time.time())
    permission = ModelPermission(f"modelperm-{uuid.uuid4().hex[:16]}", "model_permission", now)
    return ModelCard(name, "model", now, "vllm", root, parent, max_model_len, [permission])


def _lora_routes(api_server: ApiServer) -> list[Entry]:
    loras = api_server.replica.loras

    # Both respond with plain text and without a content type, as in vLLM.
    async def load(request: Request) -> Response:
        body = await read(request, LoadLoraBody)
        loras.load(body)
        return Response(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    async def unload(request: Request) -> Response:
        body = await read(request, UnloadLoraBody)
        loras.unload(body.lora_name)
        return Response(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    return [("POST", "/v1/load_lora_adapter", load), ("POST", "/v1/unload_lora_adapter", unload)]
