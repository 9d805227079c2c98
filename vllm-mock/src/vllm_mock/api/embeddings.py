"""/v1/embeddings: a vector for each text, the mean of vectors that its tokens always have. So equal texts have equal
vectors, and texts that share words lie near each other. They are made at once: the engine has no part in them."""

import base64
import time
import uuid
from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from vllm_mock.api.api_server import Door, Entry, read
from vllm_mock.api.responses import json_response
from vllm_mock.generation.request_body import TokenId

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DIMENSIONS = 256
"""Of a vector, unless the request names another number."""


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


def embeddings_routes(door: Door) -> list[Entry]:
    async def embed(request: Request) -> Response:
        body = await read(request, EmbeddingsBody)
        model = door.replica.check_model(body.model)
        texts = _texts(door, body)
        data = [
            Embedding(index, "embedding", _written(_vector(tokens, body.dimensions), body.encoding_format))
            for index, tokens in enumerate(texts)
        ]
        count = sum(map(len, texts))
        answer_id = f"embd-{uuid.uuid4().hex[:16]}"
        usage = EmbeddingUsage(count, count)
        return json_response(Embeddings(answer_id, "list", int(time.time()), model, data, usage))

    return [("POST", "/v1/embeddings", embed)]


def _texts(door: Door, body: EmbeddingsBody) -> list[list[int]]:
    given = body.input
    if isinstance(given, str):
        return [door.replica.tokenizer.encode(given)]
    whole = [each for each in given if isinstance(each, int)]
    if whole:
        return [whole]
    encode = door.replica.tokenizer.encode
    return [encode(each) if isinstance(each, str) else each for each in given if not isinstance(each, int)]


def _vector(tokens: list[int], dimensions: int) -> "NDArray[np.float32]":
    """Of length 1."""
    # Twenty MB that servers without vectors do not need.
    import numpy as np

    of_tokens = [np.random.default_rng(token).standard_normal(dimensions) for token in tokens or [0]]
    mean = np.mean(of_tokens, axis=0)
    return (mean / np.linalg.norm(mean)).astype(np.float32)


def _written(vector: "NDArray[np.float32]", form: str) -> list[float] | str:
    return base64.b64encode(vector.tobytes()).decode() if form == "base64" else vector.tolist()
