"""The recorded model's words, put into the mock's mouth.

The recordings were made with a vocabulary that they do not hold, and with random weights. So the mock is told what the
model said and how many tokens a text is; everything that follows from it (what is shown when, stop strings, offsets,
counts, limits, finish reasons) is the mock's own and compared."""

from collections.abc import Sequence
from typing import Any, cast

from vllm_mock.engine.messages import EngineRequest
from vllm_mock.generation.forced_outputs import Scripts
from vllm_mock.generation.request_body import COMPLETION_TOKENS
from vllm_mock.tokens.tokenizer import Turn
from vllm_mock.verify.exchanges import Exchange, Json, fields_of

_FIRST_MADE_UP = 1_000_000
"""Ids for pieces of text whose own are not recorded."""
_UNKNOWN_PIECE = b"<unknown>"
_CONVERSATION = "<conversation>"


class RecordedText:
    """A tokenizer that knows the texts of one exchange."""

    def __init__(self, exchange: Exchange, vocabulary: int, end_of_sequence: int) -> None:
        """`vocabulary`: how many tokens the recorded model knows."""
        self.vocabulary = vocabulary
        self.end_of_sequence = end_of_sequence
        self._pieces: dict[int, bytes] = {end_of_sequence: b""}
        self._names: dict[int, str] = {}
        self._prompts: dict[str, list[int]] = {}
        self._choices: list[list[int]] = []
        self._asked: dict[str, int] = {}
        self._listening = False
        self._learn_prompts(exchange)
        self._learn_choices(exchange)

    def listen(self) -> None:
        """The next requests are the recorded one; those before were to prepare for it."""
        self._listening = True

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
        """Sequences are asked for in the order of the choices."""
        if not self._listening:
            return 1
        choice = self._asked.setdefault(request.request_id, len(self._asked))
        said = self._choices[choice] if choice < len(self._choices) else []
        return said[position] if position < len(said) else self.end_of_sequence

    def _learn_prompts(self, exchange: Exchange) -> None:
        body, answer = exchange.request.fields, exchange.response.fields
        if exchange.request.path == "/detokenize":
            asked = _list_of(body.get("tokens"))
            known = [token for token in asked if isinstance(token, int) and token < self.vocabulary]
            self._pieces |= dict.fromkeys(known, b"")
            self._pieces |= dict.fromkeys(known[:1], str(answer.get("prompt", "")).encode())
        ids: list[int] | None = answer.get("tokens")
        if ids is not None:
            self._names |= dict(zip(ids, answer.get("token_strs") or (), strict=False))
            self._prompts[body.get("prompt", _CONVERSATION)] = ids
            return
        prompt = body.get("prompt")
        given = [prompt] if isinstance(prompt, str) else _list_of(prompt) if prompt is not None else [_CONVERSATION]
        texts = [text for text in given if isinstance(text, str)]
        for text, count in zip(texts, _shared_out(_prompt_tokens(exchange), len(texts)), strict=True):
            self._prompts[text] = self._prompt_ids(exchange, count)

    def _prompt_ids(self, exchange: Exchange, count: int) -> list[int]:
        """As recorded where they are, else made up; with their text where an echo's logprobs tell it."""
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

    def _learn_choices(self, exchange: Exchange) -> None:
        if exchange.chunks:
            self._choices = [self._streamed(exchange, index) for index in _indexes(exchange.chunks)]
            return
        answer = exchange.response.fields
        choices: list[Json] = answer.get("choices", [])
        counts = _choice_tokens(exchange, choices)
        self._choices = [self._whole(exchange, choice, count) for choice, count in zip(choices, counts, strict=True)]

    def _whole(self, exchange: Exchange, choice: Json, count: int) -> list[int]:
        """An answer's text in `count` pieces, which it does not show: all of it with the first token but for what ended
        it."""
        ids: list[int] | None = choice.get("token_ids")
        text = _text(choice).removeprefix(_echoed(exchange))
        pieces = _logprob_pieces(choice, count) or _ended([text, *[""] * (count - 1)], choice, exchange)
        if ids is not None:
            for token, piece in zip(ids, pieces, strict=True):
                self._pieces.setdefault(token, piece.encode())
            # Equal ids are equal pieces.
            if "".join(self._pieces[token].decode() for token in ids) != text and text:
                self._pieces |= dict.fromkeys(ids, text[: len(text) // len(ids)].encode())
            return ids
        return [*(self._id(piece) for piece in pieces[:-1]), self._last(pieces[-1], choice)] if pieces else []

    def _streamed(self, exchange: Exchange, index: int) -> list[int]:
        """The pieces from what was shown when: with stop strings the server holds some characters back, so they came
        earlier than they were shown."""
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
        told = [_text(chunk) for chunk in chunks]
        told[0] = told[0].removeprefix(_echoed(exchange))
        text = "".join(_ended(told, chunks[-1], exchange))
        shown, said, pieces = 0, 0, list[str]()
        for chunk, part in zip(chunks, told, strict=True):
            shown += len(part)
            until = len(text) if chunk is chunks[-1] else min(shown + held_back if shown else 0, len(text))
            pieces.append(text[said:until])
            said = max(said, until)
        ids: list[int] = [token for chunk in chunks for token in chunk.get("token_ids") or ()]
        if len(ids) == len(pieces):
            self._pieces = {**{token: piece.encode() for token, piece in zip(ids, pieces, strict=True)}, **self._pieces}
            return ids
        return [*(self._id(piece) for piece in pieces[:-1]), self._last(pieces[-1], chunks[-1])]

    def _last(self, piece: str, choice: Json) -> int:
        """The id of the token that ended the answer."""
        if choice.get("finish_reason") == "stop" and not isinstance(choice.get("stop_reason"), str):
            stop = choice.get("stop_reason")
            return self.end_of_sequence if stop is None else stop
        return self._id(piece)

    def _id(self, piece: str) -> int:
        token = _FIRST_MADE_UP + len(self._pieces)
        self._pieces[token] = piece.encode()
        return token


class RecordedScripts(Scripts):
    """Nothing is laid down but the recording."""

    def lay_down(self, request_id: str, tokens: Sequence[int]) -> None:
        del request_id, tokens


def _list_of(value: object) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else []


def _prompt_tokens(exchange: Exchange) -> int:
    """From the usage; from the refusal, where the prompt was too long."""
    usages = [exchange.response.fields, *reversed(exchange.chunks)]
    for answer in usages:
        if answer.get("usage"):
            return answer["usage"]["prompt_tokens"]
    error = fields_of(exchange.response.fields.get("error"))
    if error.get("param") == "input_tokens":
        return int(str(error["message"]).partition("value=")[2].rstrip(")"))
    return 1


def _shared_out(total: int, count: int) -> list[int]:
    """Of several prompts only the sum is recorded."""
    return [total // count + (number < total % count) for number in range(count)] if count else []


def _choice_tokens(exchange: Exchange, choices: list[Json]) -> list[int]:
    """Tokens of each choice; those that ended by the limit are as long as each other."""
    total: int = fields_of(exchange.response.fields.get("usage")).get("completion_tokens", 0)
    body = exchange.request.fields
    limit: Any = body.get("max_completion_tokens", body.get("max_tokens", COMPLETION_TOKENS))
    cut = [choice.get("finish_reason") == "length" for choice in choices]
    if all(cut) or not isinstance(limit, int):
        return _shared_out(total, len(choices))
    others = iter(_shared_out(total - limit * sum(cut), cut.count(False)))
    return [limit if is_cut else next(others) for is_cut in cut]


def _indexes(chunks: list[Json]) -> list[int]:
    return sorted({choice["index"] for chunk in chunks for choice in chunk["choices"]})


def _echoed(exchange: Exchange) -> str:
    """The prompt, where the answer begins with it."""
    prompt = exchange.request.fields.get("prompt")
    return prompt if exchange.request.fields.get("echo") and isinstance(prompt, str) else ""


def _text(choice: Json) -> str:
    """Of a choice or a chunk's choice, completion or chat."""
    spoken = fields_of(choice.get("message") or choice.get("delta") or choice)
    return spoken.get("content", spoken.get("text")) or ""


def _logprob_pieces(choice: Json, count: int) -> list[str] | None:
    logprobs = fields_of(choice.get("logprobs"))
    if "tokens" in logprobs:
        return logprobs["tokens"][-count:]
    if "content" in logprobs:
        return [each["token"] for each in logprobs["content"]]
    return None


def _ended(pieces: list[str], choice: Json, exchange: Exchange) -> list[str]:
    """With the stop string that ended the answer and was cut off."""
    stop = choice.get("stop_reason")
    if not isinstance(stop, str) or exchange.request.fields.get("include_stop_str_in_output"):
        if isinstance(stop, str) and len(pieces) > 1:
            # The stop string comes with the last token.
            whole = "".join(pieces)
            return [whole.removesuffix(stop), *[""] * (len(pieces) - 2), stop]
        return pieces
    return [*pieces[:-1], pieces[-1] + stop]
