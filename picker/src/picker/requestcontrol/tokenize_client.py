"""A client of vLLM's `/tokenize`: requests the tokens of prompts, because KV events identify blocks by tokens.

A prompt whose beginning was seen before and is not mapped yet (see `prefix_cache.kv_event_index`) is sent to
`/tokenize` of the endpoint that served it. The endpoint has the tokenizer, chat template and tools. A prompt that never
repeats costs nothing. One that repeats costs a millisecond of the server's front end, once. No request waits for it.
Needs the extra `picker[kv-events]`."""

import asyncio
import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from itertools import accumulate

import httpx
import msgspec
import structlog

from picker.bounded_text import shorten
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.prefix_cache.kv_event_index import KvEventIndex
from picker.requestcontrol.director import BLOCK_BYTES
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.pick_request import PickRequest

log = structlog.get_logger(__name__)

PATHS = ("/v1/chat/completions", "/v1/completions")
"""APIs whose bodies `/tokenize` accepts. It ignores fields that it does not need."""

NOT_TEXT = re.compile(rb'"(?:image|video|audio|input_image|input_audio|prompt_embeds)\w*"\s*:')
"""In a prompt with such a field, a block's hash covers more than its tokens."""

CONCURRENT_CALLS = 2
"""Judgement: the servers do the work, and it is not urgent."""

MAX_WAITING = 64
"""Prompts that were served and wait for a call. Further ones are skipped until they repeat. Judgement."""

MAX_KEPT_BYTES = 32 << 20
"""Of bodies kept until their requests end. Judgement: about a hundred long prompts."""

MAX_REQUESTED = 4096
"""Prefixes remembered as requested: one that cannot be mapped is not requested repeatedly. Judgement."""

TIMEOUT_S = 5.0
"""Of one whole call. Judgement: a front end that is not overloaded responds within 0.1 s."""

MAX_RESPONSE_BYTES = 16 << 20
RESPONSE_BYTES_PER_BYTE = 32
"""Of the prompt's body, plus 64 KiB. Judgement: a token is at least a byte, and is an id and a string in JSON."""

MAX_FAILING = 1000
"""Servers remembered as failing, so that each is logged once. Judgement."""


class UnusableResponse(Exception):
    """A response of `/tokenize` that is too long or has a content coding."""


class _Tokenized(msgspec.Struct):
    tokens: list[int]
    token_strs: list[str] | None = None


class _Prompt(msgspec.Struct, frozen=True):
    """A prompt to tokenize."""

    endpoint: Endpoint
    prefixes: KvEventIndex
    blocks: tuple[int, ...]
    text_bytes: int
    """Of the text that the blocks are hashes of."""
    body: bytes
    model: str
    beginning: int
    """The last of its blocks that was seen before."""


_decoder = msgspec.json.Decoder(_Tokenized)


class TokenizeClient:
    """Tokenizes repeated prompts in the background. Call `repeated` for each, while `run` runs."""

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """`transport`: None means HTTP over TCP."""
        self._transport = transport
        self._waiting: asyncio.Queue[_Prompt] = asyncio.Queue(MAX_WAITING)
        self._requested: OrderedDict[int, None] = OrderedDict()
        self._kept_bytes = 0
        self._failing: set[str] = set()
        """Servers whose failure was logged."""

    def repeated(self, request: PickRequest, in_flight: InFlightRequest) -> None:
        """Requests the tokens of a prompt whose beginning was seen before, once it has been served."""
        sent, prefixes, body = in_flight.sent, in_flight.prefixes, request.body
        if sent is None or sent.unnamed is None or not isinstance(prefixes, KvEventIndex):
            return
        if sent.unnamed in self._requested or request.info.path not in PATHS or body.salt:
            return
        if self._kept_bytes + len(body.json) > MAX_KEPT_BYTES or NOT_TEXT.search(body.prompt):
            return
        self._requested[sent.unnamed] = None
        if len(self._requested) > MAX_REQUESTED:
            self._requested.popitem(last=False)
        model, blocks = in_flight.request.model or "", in_flight.request.blocks
        prompt = _Prompt(sent.endpoint, prefixes, blocks, len(body.prompt), body.json, model, sent.unnamed)
        self._kept_bytes += len(prompt.body)
        sent.on_end = partial(self._served, prompt)

    async def run(self) -> None:
        async with (
            httpx.AsyncClient(transport=self._transport, timeout=TIMEOUT_S, trust_env=False) as client,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(CONCURRENT_CALLS):
                tasks.create_task(self._work(client))

    async def drained(self) -> None:
        """Waits until every prompt that was served is tokenized or discarded."""
        await self._waiting.join()

    def _served(self, prompt: _Prompt) -> None:
        self._kept_bytes -= len(prompt.body)
        if self._waiting.full():
            self._requested.pop(prompt.beginning, None)
        else:
            self._waiting.put_nowait(prompt)

    async def _work(self, client: httpx.AsyncClient) -> None:
        while True:
            prompt = await self._waiting.get()
            try:
                await self._tokenize(client, prompt)
            except Exception:
                # An unforeseen error costs one mapping, not the picker.
                log.exception("tokenize.internal_error", endpoint=prompt.endpoint.address)
            finally:
                self._waiting.task_done()

    async def _tokenize(self, client: httpx.AsyncClient, prompt: _Prompt) -> None:
        address = prompt.endpoint.address
        try:
            async with asyncio.timeout(TIMEOUT_S):
                response = await _call(client, f"http://{address}/tokenize", prompt)
            found = _decoder.decode(response)
            ends = _ends(len(prompt.blocks), prompt.text_bytes, found)
            mapped = prompt.prefixes.learn(prompt.endpoint, prompt.blocks, ends, found.tokens, prompt.model)
        except (httpx.HTTPError, TimeoutError, UnusableResponse, msgspec.DecodeError, ValueError) as error:
            if address not in self._failing:
                if len(self._failing) >= MAX_FAILING:
                    self._failing.clear()
                self._failing.add(address)
                log.warning("tokenize.failed", endpoint=address, problem=shorten(str(error) or type(error).__name__))
            if isinstance(error, httpx.TransportError | TimeoutError):
                self._requested.pop(prompt.beginning, None)
            return
        self._failing.discard(address)
        log.debug("tokenize.succeeded", endpoint=address, tokens=len(found.tokens), blocks=mapped)


async def _call(client: httpx.AsyncClient, url: str, prompt: _Prompt) -> bytes:
    """Returns the body of the response. Raises httpx.HTTPError, UnusableResponse."""
    limit = min(MAX_RESPONSE_BYTES, (64 << 10) + RESPONSE_BYTES_PER_BYTE * len(prompt.body))
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    content = _tokenize_body(prompt.body, prompt.model)
    async with client.stream("POST", url, content=content, headers=headers) as response:
        response.raise_for_status()
        if response.headers.get("content-encoding", "identity") != "identity":
            raise UnusableResponse("the response has a content coding, which was not requested")
        received = bytearray()
        async for piece in response.aiter_bytes():
            received += piece
            if len(received) > limit:
                raise UnusableResponse(f"the response has more than {limit} bytes")
    return bytes(received)


def _tokenize_body(body: bytes, model: str) -> bytes:
    """The body of a request as a body of `/tokenize`. The model is appended: of two equal keys the last one counts."""
    fields = b'"model":' + msgspec.json.encode(model) + b',"return_token_strs":true}'
    return body.rstrip()[:-1] + b"," + fields


def _ends(blocks: int, text_bytes: int, found: _Tokenized) -> Sequence[int]:
    """Estimates for each block of the text the number of tokens up to its end, by its share of all characters. A chat's
    text is JSON, and its tokens are of the rendered template, so the result is approximate."""
    strings = found.token_strs
    if strings is None or len(strings) != len(found.tokens):
        return [len(found.tokens) * BLOCK_BYTES * (number + 1) // text_bytes for number in range(blocks)]
    characters = list(accumulate(map(len, strings)))
    share = characters[-1] / text_bytes if characters else 0.0
    return [bisect_right(characters, share * BLOCK_BYTES * (number + 1)) for number in range(blocks)]
