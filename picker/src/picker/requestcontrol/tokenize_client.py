"""Learns which tokens the text of prompts becomes, from the servers that serve them.

A prompt whose beginning has come before, and is not named yet (see `prefix_cache.kv_event_index`), is sent once more
when it has been served: to `/tokenize` of the same server, which knows tokenizer, chat template and tools. So what
never comes again costs nothing, what does costs a millisecond of the server's front end once, and no request waits.
Needs the extra `picker[kv-events]`."""

import asyncio
import logging
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
from picker.requestcontrol.director import BLOCK_BYTES, Assigned
from picker.requestcontrol.interfaces import Wanted

log = structlog.get_logger(__name__)

PATHS = ("/v1/chat/completions", "/v1/completions")
"""Whose bodies `/tokenize` takes as they are. It ignores what it does not need of them."""

NOT_TEXT = re.compile(rb'"(?:image|video|audio|input_image|input_audio|prompt_embeds)\w*"\s*:')
"""In such prompts not only tokens name a block."""

ASKING = 2
"""Questions under way at a time: the work is the servers', and it is not urgent."""

MAX_WAITING = 64
"""Prompts served and not yet asked for. Beyond it those that come are passed over, until they come again."""

MAX_KEPT_BYTES = 32 << 20
"""Of bodies kept until their requests end: some hundred long prompts, and only such as come again."""

MAX_REMEMBERED = 4096
"""Prefixes asked for, so that one which cannot be named is not asked for again and again."""

TIMEOUT_S = 5.0
"""Of one question in all, its answer included. A front end that is not overloaded answers within 0.1 s."""

MAX_ANSWER_BYTES = 16 << 20
ANSWER_BYTES_PER_BYTE = 32
"""Of the body asked about, and 64 KiB: a token is a byte at least, and becomes an id and a string in JSON."""

MAX_SILENT = 1000
"""Servers remembered as not answering, so that each is logged once."""


class UnusableResponse(Exception):
    """An answer of `/tokenize` that is too long, or has a content coding; the message says which."""


class _Tokenized(msgspec.Struct):
    tokens: list[int]
    token_strs: list[str] | None = None


class _Prompt(msgspec.Struct, frozen=True):
    """One to ask for."""

    endpoint: Endpoint
    prefixes: KvEventIndex
    blocks: tuple[int, ...]
    text_bytes: int
    """Of the text that the blocks are cut from."""
    body: bytes
    model: str
    beginning: int
    """The block up to which it has come before."""


_decoder = msgspec.json.Decoder(_Tokenized)


class TokenizeClient:
    """Tell it of every prompt that is `repeated`; `run` it as long as the picker runs."""

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """`transport`: how servers are reached; None is by HTTP."""
        self._transport = transport
        self._waiting: asyncio.Queue[_Prompt] = asyncio.Queue(MAX_WAITING)
        self._remembered: OrderedDict[int, None] = OrderedDict()
        self._kept_bytes = 0
        self._silent: set[str] = set()
        """Servers that have been told of as not answering."""

    def repeated(self, wanted: Wanted, assigned: Assigned) -> None:
        """`wanted` is on its way, and its beginning has come before."""
        dispatched, body = assigned.dispatched, wanted.body
        sent, prefixes = dispatched.sent, assigned.pool.prefixes
        if sent is None or sent.unnamed is None or not isinstance(prefixes, KvEventIndex):
            return
        if sent.unnamed in self._remembered or wanted.path.partition("?")[0] not in PATHS or body.salt:
            return
        if self._kept_bytes + len(body.json) > MAX_KEPT_BYTES or NOT_TEXT.search(body.prompt):
            return
        self._remembered[sent.unnamed] = None
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        model = dispatched.request.model or ""
        blocks = dispatched.request.blocks
        prompt = _Prompt(sent.endpoint, prefixes, blocks, len(body.prompt), body.json, model, sent.unnamed)
        self._kept_bytes += len(prompt.body)
        sent.on_end = partial(self._served, prompt)

    async def run(self) -> None:
        # httpx logs each request at the level at which the picker logs each change.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        async with (
            httpx.AsyncClient(transport=self._transport, timeout=TIMEOUT_S, trust_env=False) as client,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(ASKING):
                tasks.create_task(self._ask_on(client))

    async def all_asked(self) -> None:
        """Wait until no prompt that has been served is still to be asked for."""
        await self._waiting.join()

    def _served(self, prompt: _Prompt) -> None:
        self._kept_bytes -= len(prompt.body)
        if self._waiting.full():
            self._remembered.pop(prompt.beginning, None)
        else:
            self._waiting.put_nowait(prompt)

    async def _ask_on(self, client: httpx.AsyncClient) -> None:
        while True:
            prompt = await self._waiting.get()
            try:
                await self._ask(client, prompt)
            except Exception:
                # What nobody has thought of shall cost a name, and not the picker.
                log.exception("prompt_tokens.failed", endpoint=prompt.endpoint.address)
            finally:
                self._waiting.task_done()

    async def _ask(self, client: httpx.AsyncClient, prompt: _Prompt) -> None:
        address = prompt.endpoint.address
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await _answer(client, f"http://{address}/tokenize", prompt)
            found = _decoder.decode(answer)
            ends = _ends(len(prompt.blocks), prompt.text_bytes, found)
            named = prompt.prefixes.learn(prompt.endpoint, prompt.blocks, ends, found.tokens, prompt.model)
        except (httpx.HTTPError, TimeoutError, UnusableResponse, msgspec.DecodeError, ValueError) as error:
            if address not in self._silent:
                if len(self._silent) >= MAX_SILENT:
                    self._silent.clear()
                self._silent.add(address)
                log.warning(
                    "prompt_tokens.no_answer", endpoint=address, problem=shorten(str(error) or type(error).__name__)
                )
            if isinstance(error, httpx.TransportError | TimeoutError):
                self._remembered.pop(prompt.beginning, None)
            return
        self._silent.discard(address)
        log.debug("prompt_tokens.learned", endpoint=address, tokens=len(found.tokens), blocks=named)


async def _answer(client: httpx.AsyncClient, url: str, prompt: _Prompt) -> bytes:
    """What the server says. Raises httpx.HTTPError, AnswerUnusable."""
    limit = min(MAX_ANSWER_BYTES, (64 << 10) + ANSWER_BYTES_PER_BYTE * len(prompt.body))
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    question = _question(prompt.body, prompt.model)
    async with client.stream("POST", url, content=question, headers=headers) as response:
        response.raise_for_status()
        if response.headers.get("content-encoding", "identity") != "identity":
            raise UnusableResponse("the answer has a content coding, which was not asked for")
        answer = bytearray()
        async for piece in response.aiter_bytes():
            answer += piece
            if len(answer) > limit:
                raise UnusableResponse(f"the answer has more than {limit} bytes")
    return bytes(answer)


def _question(body: bytes, model: str) -> bytes:
    """The body of a request as one of `/tokenize`: of two fields of one name the last counts."""
    fields = b'"model":' + msgspec.json.encode(model) + b',"return_token_strs":true}'
    return body.rstrip()[:-1] + b"," + fields


def _ends(blocks: int, text_bytes: int, found: _Tokenized) -> Sequence[int]:
    """For each block of the text how many tokens come up to its end, by the share of all characters that those are: a
    chat's text is JSON, and its tokens are of a template, so that places are near and not exact."""
    strings = found.token_strs
    if strings is None or len(strings) != len(found.tokens):
        return [len(found.tokens) * BLOCK_BYTES * (number + 1) // text_bytes for number in range(blocks)]
    characters = list(accumulate(map(len, strings)))
    share = characters[-1] / text_bytes if characters else 0.0
    return [bisect_right(characters, share * BLOCK_BYTES * (number + 1)) for number in range(blocks)]
