"""/v1/completions and /v1/chat/completions."""

from starlette.requests import Request
from starlette.responses import Response

from vllm_mock.api import chat, completions
from vllm_mock.api.api_server import ApiServer, Entry, read
from vllm_mock.api.responses import json_response
from vllm_mock.generation.constraints import check_tools, constrain
from vllm_mock.generation.request_body import ChatBody, CompletionBody


def completion_routes(api_server: ApiServer) -> list[Entry]:
    replica = api_server.replica

    async def complete(request: Request) -> Response:
        body = await read(request, CompletionBody)
        prepared = replica.completion(body, request.headers.get("x-request-id"))
        constrain(replica, body, prepared)
        generation = await api_server.begin(prepared, body)
        if body.stream:
            return api_server.stream(generation, completions.chunks(replica, body, generation))
        await api_server.finish(request, generation)
        return json_response(completions.whole(replica, body, generation))

    async def complete_chat(request: Request) -> Response:
        body = await read(request, ChatBody)
        replica.check_model(body.model)
        check_tools(replica, body)
        prepared = replica.chat(body, request.headers.get("x-request-id"))
        tool = constrain(replica, body, prepared)
        generation = await api_server.begin(prepared, body)
        if body.stream:
            return api_server.stream(generation, chat.chunks(replica, body, generation, tool))
        await api_server.finish(request, generation)
        return json_response(chat.whole(replica, body, generation, tool))

    return [("POST", "/v1/completions", complete), ("POST", "/v1/chat/completions", complete_chat)]
