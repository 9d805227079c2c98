"""/v1/embeddings: one vector for each text.

A text's vector is the normalized mean of fixed random vectors, one for each token id. Equal texts have equal vectors,
and texts that share words are close to each other. Responses are immediate: the engine does not take part.
"""

import base64
import time
import uuid
from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from vllm_mock.api.api_server import ApiServer, Entry, read
from vllm_mock.api.responses import json_response
from vllm_mock.generation.request_body import TokenId

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DIMENSIONS = 256
"""Dimensions of a vector if the request does not name a number."""


class EmbeddingsBody(BaseModel):
    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    input: list[TokenId] | list[list[TokenId]] | str | list[str]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int = Field(DIMENSIONS, ge=1, le=8192)


class Embedding(Struct, frozen=True):
    index: int
    object: str
    embedding: list[float] | str


class EmbeddingUsage(Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: None = None


class Embeddings(Struct, frozen=True):
    id: str
    object: str
    created: int
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


def embeddings_routes(api_server: ApiServer) -> list[Entry]:
    async def embed(request: Request) -> Response:
        body = await read(request, EmbeddingsBody)
        model = api_server.replica.check_model(body.model)
        texts = _texts(api_server, body)
        data = [
            Embedding(index, "embedding", _encoded(_vector(tokens, body.dimensions), body.encoding_format))
            for index, tokens in enumerate(texts)
        ]
        count = sum(map(len, texts))
        answer_id = f"embd-{uuid.uuid4().hex[:16]}"
        usage = EmbeddingUsage(count, count)
        return json_response(Embeddings(answer_id, "list", int(time.time()), model, data, usage))

    return [("POST", "/v1/embeddings", embed)]


def _texts(api_server: ApiServer, body: EmbeddingsBody) -> list[list[int]]:
    items = body.input
    encode = api_server.replica.tokenizer.encode
    if isinstance(items, str):
        return [encode(items)]
    token_ids = [item for item in items if isinstance(item, int)]
    if token_ids:
        return [token_ids]
    return [encode(item) if isinstance(item, str) else item for item in items if not isinstance(item, int)]


def _vector(tokens: list[int], dimensions: int) -> "NDArray[np.float32]":
    """The vector of a text, normalized to length 1."""
    # Imported here: numpy takes 20 MB, which servers without embeddings do not need.
    import numpy as np

    of_tokens = [np.random.default_rng(token).standard_normal(dimensions) for token in tokens or [0]]
    mean = np.mean(of_tokens, axis=0)
    return (mean / np.linalg.norm(mean)).astype(np.float32)


def _encoded(vector: "NDArray[np.float32]", encoding_format: str) -> list[float] | str:
    return base64.b64encode(vector.tobytes()).decode() if encoding_format == "base64" else vector.tolist()
