"""The APIs of model servers by path, and the fields of a body that each of them reads."""

from collections.abc import Mapping
from urllib.parse import unquote

import msgspec

DEFAULT_OUTPUT_TOKENS = 256
"""Expected for a sequence whose request has no limit. Judgement."""

AUDIO_TOKENS = 750
"""Of an audio clip of 30 s, the longest that Whisper and Qwen2-Audio read in one piece, at Qwen2-Audio's 25 tokens a
second. Other models need 375 (Voxtral) to 1,500 (Whisper's encoder)."""

PICTURE_TOKENS = 1200
"""Judgement, for a picture of a megapixel: 1,337 in Qwen2-VL (28 x 28 pixels a token), 1,024 in Qwen3-VL, 576 in LLaVA
1.5, 256 in Gemma 3, 1,601 in Llama 3.2, 765 in OpenAI's models. The number of pixels is not known from the bytes."""


class Api(msgspec.Struct, frozen=True, gc=False):
    """The fields that one API reads. Other fields of a body cost the server nothing, and are not counted."""

    prompts: tuple[str, ...] = ()
    """Fields of the prompt, in the order in which chat templates place them."""
    sequences: tuple[str, ...] = ()
    """Those of `prompts` in which each element of a list is a separate sequence."""
    repeated: str | None = None
    """The one of `prompts` that is computed again for each sequence: the query of a reranker."""
    limits: tuple[str, ...] = ()
    """Fields that limit the output tokens. The first that has a positive number is used."""
    copies: tuple[str, ...] = ()
    """Fields that request several outputs for each prompt. The largest is used."""
    inner: str | None = None
    """The object that has `limits` and `copies`; None for the body itself."""
    output_tokens: int = DEFAULT_OUTPUT_TOKENS
    """Of a sequence whose request has no limit. 0 for APIs that return vectors, scores or pictures."""
    form_tokens: int = 0
    """Prompt tokens of a file in a form."""
    names_model: bool = True
    """Whether a body must be JSON or a form that names a model."""
    choices: tuple[tuple[str, "Api"], ...] = ()
    """For routes of several APIs: the first of these fields that a body has selects its API."""


CHAT = Api(("tools", "messages"), (), None, ("max_completion_tokens", "max_tokens"), ("n",))
COMPLETIONS = Api(("prompt",), ("prompt",), None, ("max_tokens",), ("n", "best_of"))
RESPONSES = Api(("tools", "instructions", "input"), limits=("max_output_tokens",))
MESSAGES = Api(("tools", "system", "messages"), limits=("max_tokens",))
GENERATE = Api(("token_ids",), limits=("max_tokens",), copies=("n",), inner="sampling_params")
TRANSCRIPTION = Api(form_tokens=AUDIO_TOKENS, limits=("max_completion_tokens",))
SPEECH = Api(("input",), output_tokens=0)
PICTURES = Api(("prompt",), ("prompt",), copies=("n",), output_tokens=0, form_tokens=PICTURE_TOKENS)

_EMBED_INPUT = Api(("input",), ("input",), output_tokens=0)
_EMBED_CHAT = Api(("messages",), output_tokens=0)
_EMBED_TEXTS = Api(("texts", "images", "inputs"), ("texts", "images", "inputs"), output_tokens=0)
_SCORE_TEXTS = Api(("text_1", "text_2"), ("text_1", "text_2"), "text_1", output_tokens=0)
_SCORE_DATA = Api(("data_1", "data_2"), ("data_1", "data_2"), "data_1", output_tokens=0)
_SCORE_QUERIES = Api(("queries", "documents"), ("queries", "documents"), "queries", output_tokens=0)
_SCORE_ITEMS = Api(("query", "items"), ("query", "items"), "query", output_tokens=0)
_RERANK = Api(("query", "documents"), ("documents",), "query", output_tokens=0)

_SCORES = (
    ("text_1", _SCORE_TEXTS),
    ("data_1", _SCORE_DATA),
    ("queries", _SCORE_QUERIES),
    ("items", _SCORE_ITEMS),
    ("documents", _RERANK),
)
_EMBEDS = (("input", _EMBED_INPUT), ("messages", _EMBED_CHAT))

EMBED = Api(output_tokens=0, choices=_EMBEDS)
SCORE = Api(output_tokens=0, choices=_SCORES)
POOL = Api(output_tokens=0, choices=(*_EMBEDS, *_SCORES))

_CHOICES = (
    ("messages", CHAT),
    ("prompt", COMPLETIONS),
    ("input", RESPONSES),
    ("token_ids", GENERATE),
    ("texts", _EMBED_TEXTS),
    *_SCORES,
)
INVOCATIONS = Api(output_tokens=0, choices=_CHOICES)
"""SageMaker's route: the fields of the body select the API."""

UNKNOWN = Api(output_tokens=0, names_model=False, choices=_CHOICES)
"""A route that is not in `APIS`. The known fields of its body are counted, and none of them is required."""

NO_WORK = Api(output_tokens=0, names_model=False)
"""Routes that do not use the GPU."""

APIS: Mapping[str, Api] = {
    "/v1/chat/completions": CHAT,
    "/v1/chat/completions/batch": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/v1/embeddings": EMBED,
    "/v1/score": SCORE,
    "/v1/rerank": SCORE,
    "/v1/pooling": POOL,
    "/v1/classify": POOL,
    "/v1/decisions": INVOCATIONS,
    "/v1/audio/transcriptions": TRANSCRIPTION,
    "/v1/audio/translations": TRANSCRIPTION,
    "/v1/audio/speech": SPEECH,
    "/v1/images/generations": PICTURES,
    "/v1/images/edits": PICTURES,
    "/v1/images/variations": PICTURES,
    "/v2/embed": _EMBED_TEXTS,
    "/v2/rerank": SCORE,
    "/inference/v1/generate": GENERATE,
    "/invocations": INVOCATIONS,
    "/score": SCORE,
    "/rerank": SCORE,
    "/pooling": POOL,
    "/classify": POOL,
    "/generative_scoring": SCORE,
    "/v1/chat/completions/render": NO_WORK,
    "/v1/completions/render": NO_WORK,
    "/v1/messages/count_tokens": NO_WORK,
    "/v1/load_lora_adapter": NO_WORK,
    "/v1/unload_lora_adapter": NO_WORK,
    "/tokenize": NO_WORK,
    "/detokenize": NO_WORK,
}
"""The routes of vLLM 0.32 that have a body (docs/usage/security.md there), and OpenAI's for audio and pictures."""

_PREFIXES = ("/inference/v1/", "/v1/", "/v2/")


def api_of(path: str) -> Api:
    """Returns the API of a request to `path`, with or without its query. A prefix before the known path is ignored,
    because a route may rewrite it."""
    return APIS.get(path) or _searched(path)


def _searched(path: str) -> Api:
    path = path.partition("?")[0]
    if "%" in path:
        path = unquote(path)
    found = APIS.get(path)
    if found is not None:
        return found
    for prefix in _PREFIXES:
        at = path.rfind(prefix)
        if at > 0:
            return APIS.get(path[at:], UNKNOWN)
    return UNKNOWN
