"""A tokenizer and sampler that reproduce the text of a recorded exchange.

The recordings lack the vocabulary, and the recorded model had random weights. So the mock is given the generated text
and the number of tokens of each text. Everything derived from them is the mock's own and compared: chunks, stop
strings, offsets, counts, limits and finish reasons.
"""

from collections.abc import Sequence
from typing import Any, cast

from vllm_mock.engine.messages import EngineRequest
from vllm_mock.generation.forced_outputs import ForcedOutputs
from vllm_mock.generation.request_body import COMPLETION_TOKENS
from vllm_mock.tokens.tokenizer import Turn
from vllm_mock.verify.exchanges import Exchange, Json, fields_of

_FIRST_SYNTHETIC_ID = 1_000_000
"""First id for pieces of text whose ids are not recorded."""
_UNKNOWN_PIECE = b"<unknown>"
_CONVERSATION = "<conversation>"


class RecordedText:
    """A tokenizer for the texts of one exchange."""

    def __init__(self, exchange: Exchange, vocabulary: int, end_of_sequence: int) -> None:
        """`vocabulary` is the size of the recorded model's vocabulary."""
        self.vocabulary = vocabulary
        self.end_of_sequence = end_of_sequence
        self._pieces: dict[int, bytes] = {end_of_sequence: b""}
        self._names: dict[int, str] = {}
        self._prompts: dict[str, list[int]] = {}
        self._choices: list[list[int]] = []
        self._choice_of: dict[str, int] = {}
        self._replaying = False
        self._read_prompts(exchange)
        self._read_choices(exchange)

    def start_replay(self) -> None:
        """Makes the following sequences those of the recorded request. Earlier ones belong to its fixture."""
        self._replaying = True

    def encode(self, text: str) -> list[int]:
        return self._prompts.get(text) or self._prompts.get(_CONVERSATION) or [1] * max(1, len(text) // 2)

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self.piece(token) for token in ids if token < self.vocabulary or token in self._pieces).decode()

    def piece(self, token: int) -> bytes:
        return self._pieces.get(token, _UNKNOWN_PIECE)

    def name(self, token: int) -> str:
        return self._names.get(token, "")

    def chat_prompt(self, turns: Sequence[Turn]) -> str:
        return _CONVERSATION

    def token(self, request: EngineRequest, position: int) -> int:
        """The recorded token. Sequences sample their first token in the order of the choices."""
        if not self._replaying:
            return 1
        choice = self._choice_of.setdefault(request.request_id, len(self._choice_of))
        output = self._choices[choice] if choice < len(self._choices) else []
        return output[position] if position < len(output) else self.end_of_sequence

    def _read_prompts(self, exchange: Exchange) -> None:
        body, answer = exchange.request.fields, exchange.response.fields
        if exchange.request.path == "/detokenize":
            tokens = _list_of(body.get("tokens"))
            valid = [token for token in tokens if isinstance(token, int) and token < self.vocabulary]
            self._pieces |= dict.fromkeys(valid, b"")
            self._pieces |= dict.fromkeys(valid[:1], str(answer.get("prompt", "")).encode())
        ids: list[int] | None = answer.get("tokens")
        if ids is not None:
            self._names |= dict(zip(ids, answer.get("token_strs") or (), strict=False))
            self._prompts[body.get("prompt", _CONVERSATION)] = ids
            return
        prompt = body.get("prompt")
        items = [prompt] if isinstance(prompt, str) else _list_of(prompt) if prompt is not None else [_CONVERSATION]
        texts = [item for item in items if isinstance(item, str)]
        for text, count in zip(texts, _split_evenly(_prompt_tokens(exchange), len(texts)), strict=True):
            self._prompts[text] = self._prompt_ids(exchange, count)

    def _prompt_ids(self, exchange: Exchange, count: int) -> list[int]:
        """The recorded ids of a prompt, or synthetic ones, with the text if an echo's logprobs show it."""
        answer = exchange.response.fields
        answer = next(iter(exchange.chunks), answer)
        first = fields_of(next(iter(answer.get("choices") or ()), None))
        ids: list[int] | None = first.get("prompt_token_ids") or answer.get("prompt_token_ids")
        if ids is not None:
            return ids
        logprobs = fields_of(first.get("logprobs"))
        if exchange.request.fields.get("echo") and "tokens" in logprobs:
            return [self._id(piece) for piece in logprobs["tokens"][:count]]
        return [self._id("") for _ in range(count)]

    def _read_choices(self, exchange: Exchange) -> None:
        if exchange.chunks:
            self._choices = [self._streamed(exchange, index) for index in _indexes(exchange.chunks)]
            return
        answer = exchange.response.fields
        choices: list[Json] = answer.get("choices", [])
        counts = _choice_tokens(exchange, choices)
        self._choices = [self._whole(exchange, choice, count) for choice, count in zip(choices, counts, strict=True)]

    def _whole(self, exchange: Exchange, choice: Json, count: int) -> list[int]:
        """The tokens of a whole response's choice.

        The pieces of `count` tokens are not recorded: the first token has all text except the stop string.
        """
        ids: list[int] | None = choice.get("token_ids")
        text = _text(choice).removeprefix(_echoed(exchange))
        pieces = _logprob_pieces(choice, count) or _with_stop([text, *[""] * (count - 1)], choice, exchange)
        if ids is not None:
            for token, piece in zip(ids, pieces, strict=True):
                self._pieces.setdefault(token, piece.encode())
            # Equal ids must have equal pieces.
            if "".join(self._pieces[token].decode() for token in ids) != text and text:
                self._pieces |= dict.fromkeys(ids, text[: len(text) // len(ids)].encode())
            return ids
        return [*(self._id(piece) for piece in pieces[:-1]), self._last(pieces[-1], choice)] if pieces else []

    def _streamed(self, exchange: Exchange, index: int) -> list[int]:
        """The tokens of a streamed choice, with pieces from its chunks.

        With stop strings the server holds characters back, so they were generated before the chunk that shows them.
        """
        chunks = [
            choice
            for chunk in exchange.chunks
            for choice in chunk["choices"]
            if choice["index"] == index and not fields_of(choice.get("delta")).get("role")
        ]
        body = exchange.request.fields
        stops = [body["stop"]] if isinstance(body.get("stop"), str) else body.get("stop") or []
        held_back = max((len(stop) for stop in stops), default=1) - 1
        if body.get("include_stop_str_in_output"):
            held_back = 0
        parts = [_text(chunk) for chunk in chunks]
        parts[0] = parts[0].removeprefix(_echoed(exchange))
        text = "".join(_with_stop(parts, chunks[-1], exchange))
        shown, generated, pieces = 0, 0, list[str]()
        for chunk, part in zip(chunks, parts, strict=True):
            shown += len(part)
            until = len(text) if chunk is chunks[-1] else min(shown + held_back if shown else 0, len(text))
            pieces.append(text[generated:until])
            generated = max(generated, until)
        ids: list[int] = [token for chunk in chunks for token in chunk.get("token_ids") or ()]
        if len(ids) == len(pieces):
            self._pieces = {**{token: piece.encode() for token, piece in zip(ids, pieces, strict=True)}, **self._pieces}
            return ids
        return [*(self._id(piece) for piece in pieces[:-1]), self._last(pieces[-1], chunks[-1])]

    def _last(self, piece: str, choice: Json) -> int:
        """The id of the choice's last token."""
        if choice.get("finish_reason") == "stop" and not isinstance(choice.get("stop_reason"), str):
            stop = choice.get("stop_reason")
            return self.end_of_sequence if stop is None else stop
        return self._id(piece)

    def _id(self, piece: str) -> int:
        token = _FIRST_SYNTHETIC_ID + len(self._pieces)
        self._pieces[token] = piece.encode()
        return token


class RecordedOutputs(ForcedOutputs):
    """Ignores forced outputs: the recorded text is used instead."""

    def set(self, request_id: str, tokens: Sequence[int]) -> None:
        del request_id, tokens


def _list_of(value: object) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else []


def _prompt_tokens(exchange: Exchange) -> int:
    """Prompt tokens from the usage, or from the error if the prompt was too long."""
    usages = [exchange.response.fields, *reversed(exchange.chunks)]
    for answer in usages:
        if answer.get("usage"):
            return answer["usage"]["prompt_tokens"]
    error = fields_of(exchange.response.fields.get("error"))
    if error.get("param") == "input_tokens":
        return int(str(error["message"]).partition("value=")[2].rstrip(")"))
    return 1


def _split_evenly(total: int, count: int) -> list[int]:
    """Splits `total` into `count` parts. Only the sum of several prompts is recorded."""
    return [total // count + (number < total % count) for number in range(count)] if count else []


def _choice_tokens(exchange: Exchange, choices: list[Json]) -> list[int]:
    """Tokens of each choice. Those that ended at the limit have the limit's length."""
    total: int = fields_of(exchange.response.fields.get("usage")).get("completion_tokens", 0)
    body = exchange.request.fields
    limit: Any = body.get("max_completion_tokens", body.get("max_tokens", COMPLETION_TOKENS))
    cut = [choice.get("finish_reason") == "length" for choice in choices]
    if all(cut) or not isinstance(limit, int):
        return _split_evenly(total, len(choices))
    others = iter(_split_evenly(total - limit * sum(cut), cut.count(False)))
    return [limit if is_cut else next(others) for is_cut in cut]


def _indexes(chunks: list[Json]) -> list[int]:
    return sorted({choice["index"] for chunk in chunks for choice in chunk["choices"]})


def _echoed(exchange: Exchange) -> str:
    """The echoed prompt with which the answer begins, or an empty text."""
    prompt = exchange.request.fields.get("prompt")
    return prompt if exchange.request.fields.get("echo") and isinstance(prompt, str) else ""


def _text(choice: Json) -> str:
    """The text of a choice, whole or of a chunk, of a completion or a chat."""
    fields = fields_of(choice.get("message") or choice.get("delta") or choice)
    return fields.get("content", fields.get("text")) or ""


def _logprob_pieces(choice: Json, count: int) -> list[str] | None:
    logprobs = fields_of(choice.get("logprobs"))
    if "tokens" in logprobs:
        return logprobs["tokens"][-count:]
    if "content" in logprobs:
        return [logprob["token"] for logprob in logprobs["content"]]
    return None


def _with_stop(pieces: list[str], choice: Json, exchange: Exchange) -> list[str]:
    """`pieces` with the stop string that ended the answer, which the response omits."""
    stop = choice.get("stop_reason")
    if not isinstance(stop, str) or exchange.request.fields.get("include_stop_str_in_output"):
        if isinstance(stop, str) and len(pieces) > 1:
            # The stop string belongs to the last token.
            whole = "".join(pieces)
            return [whole.removesuffix(stop), *[""] * (len(pieces) - 2), stop]
        return pieces
    return [*pieces[:-1], pieces[-1] + stop]
