"""/tokenize and /detokenize."""

from starlette.requests import Request
from starlette.responses import Response

from vllm_mock.api.api_server import ApiServer, Entry, read
from vllm_mock.api.responses import json_response
from vllm_mock.api.schemas import Detokenized, Tokenized
from vllm_mock.generation.request_body import DetokenizeBody, TokenizeBody, TokenizePrompt


def token_routes(api_server: ApiServer) -> list[Entry]:
    replica = api_server.replica
    tokenizer = replica.tokenizer

    async def tokenize(request: Request) -> Response:
        body = (await read(request, TokenizeBody)).root
        replica.check_model(body.model)
        text = body.prompt if isinstance(body, TokenizePrompt) else replica.chat_text(body.messages)
        tokens = tokenizer.encode(text)
        names = [tokenizer.name(token) for token in tokens] if body.return_token_strs else None
        return json_response(Tokenized(len(tokens), replica.max_model_len, tokens, names))

    async def detokenize(request: Request) -> Response:
        body = await read(request, DetokenizeBody)
        replica.check_model(body.model)
        return json_response(Detokenized(tokenizer.decode(body.tokens)))

    return [("POST", "/tokenize", tokenize), ("POST", "/detokenize", detokenize)]
