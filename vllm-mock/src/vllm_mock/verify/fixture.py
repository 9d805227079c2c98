"""What had happened to the server of a recorded exchange before, and where server.yaml is missing, its flags.

It is inferred from the exchange: adapters that are or are not loaded, a queue that is full, headers that only a flag
adds. What the exchange then answers is the mock's own."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from vllm_mock.generation.loras import AdapterMissing
from vllm_mock.settings import ServeSettings
from vllm_mock.verify.exchanges import Exchange, Json, fields_of

_RANK = re.compile(r"LoRA rank (\d+) is greater")
_FILLING_TOKENS = 2000


@dataclass(frozen=True, slots=True)
class Situation:
    settings: ServeSettings
    before: tuple[tuple[str, Json], ...] = ()
    """Requests (path, body) that are made and answered before."""
    in_flight: int = 0
    """Completions that are being answered all the while."""
    adapters: "RecordedAdapters | None" = None


@dataclass(frozen=True, slots=True)
class RecordedAdapters:
    """The adapters that lay on the recorder's disk."""

    missing: frozenset[str] = frozenset()
    ranks: dict[str, int] = field(default_factory=dict[str, int])

    def rank(self, path: str) -> int:
        if path in self.missing:
            raise AdapterMissing(path)
        return self.ranks.get(path, 8)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a folder of exchanges tells as a whole."""

    keys: tuple[str, ...]
    """API keys that were accepted."""
    max_loras: int = 2
    max_lora_rank: int = 8


def surroundings(folder: Path, exchanges: list[Exchange]) -> Surroundings:
    keys = {
        (each.request.header("authorization") or "").removeprefix("Bearer ")
        for each in exchanges
        if each.request.header("authorization") and each.response.status != 401
    }
    states = folder.parent / "states.json"
    config: Json = msgspec.json.decode(states.read_bytes()).get("config", {}) if states.exists() else {}
    return Surroundings(
        tuple(sorted(keys)) or ("recorded-key",), config.get("max_loras", 2), config.get("max_lora_rank", 8)
    )


def with_flags(exchange: Exchange, start: ServeSettings) -> Situation:
    """Of flags/, whose server had the settings `start`."""
    if exchange.response.status == 503 and start.max_num_queued_reqs is not None:
        return Situation(start, in_flight=start.max_num_queued_reqs)
    return Situation(start, _primed(exchange), int(exchange.response.fields.get("server_load", 0)))


def with_loras(exchange: Exchange, start: ServeSettings) -> Situation:
    """Of lora/, whose server had the settings `start`."""
    before = tuple(
        ("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})
        for name, path in _loaded(exchange, start.names).items()
    )
    return Situation(start, before, adapters=_adapters(exchange))


def inferred(part: str, exchange: Exchange, around: Surroundings, start: ServeSettings) -> ServeSettings:
    """The flags that an exchange of `part` shows, on top of `start`: for folders without server.yaml."""
    flags: Json = {}
    if part == "lora/http":
        flags = {
            "enable_lora": True,
            "max_loras": around.max_loras,
            "max_lora_rank": around.max_lora_rank,
            "max_num_seqs": 4,
        }
    elif part == "flags/http" and exchange.response.status == 503:
        flags = {
            "max_num_queued_reqs": exchange.number_in_note("max-num-queued-reqs", 4),
            "max_num_seqs": exchange.number_in_note("max_num_seqs", 2),
        }
    elif part == "flags/http" and "x-request-id" in exchange.response.headers:
        flags = {
            "api_key": list(around.keys),
            "enable_request_id_headers": True,
            "enable_server_load_tracking": True,
            "enable_prompt_tokens_details": True,
            "max_num_seqs": exchange.number_in_note("max_num_seqs", start.max_num_seqs),
        }
    return start.model_copy(update=flags)


def _primed(exchange: Exchange) -> tuple[tuple[str, Json], ...]:
    """Whatever was in the prefix cache came from the same prompt."""
    for answer in (exchange.response.fields, *exchange.chunks):
        details = fields_of(fields_of(answer.get("usage")).get("prompt_tokens_details"))
        if details.get("cached_tokens"):
            body = {**exchange.request.fields, "stream": False, "max_tokens": 1}
            body.pop("stream_options", None)
            return ((exchange.request.path, body),)
    return ()


def _loaded(exchange: Exchange, names: tuple[str, ...]) -> dict[str, str]:
    """Adapters that must have been loaded for the exchange to go as it went."""
    path, status = exchange.request.path, exchange.response.status
    body, answer = exchange.request.fields, exchange.response.fields
    name: Any = body.get("lora_name")
    if path == "/v1/models":
        return {card["id"]: card["root"] for card in answer.get("data", ()) if card["parent"] is not None}
    if path == "/v1/load_lora_adapter" and "already been loaded" in str(answer):
        return {name: body["lora_path"]}
    if path == "/v1/unload_lora_adapter" and status == 200:
        return {name: f"/adapters/{name}"}
    model = body.get("model")
    if isinstance(model, str) and model not in names and status == 200:
        return {model: f"/adapters/{model}"}
    return {}


def _adapters(exchange: Exchange) -> RecordedAdapters:
    told, path = str(exchange.response.fields), exchange.request.fields.get("lora_path", "")
    if "No adapter found" in told:
        return RecordedAdapters(frozenset({path}))
    rank = _RANK.search(told)
    return RecordedAdapters(ranks={path: int(rank[1])} if rank else {})


def filling(number: int, max_model_len: int) -> Json:
    """A completion that is in flight for as long as an exchange takes."""
    prompt = [10 + number] * 8
    return {"prompt": prompt, "max_tokens": min(_FILLING_TOKENS, max_model_len - len(prompt)), "ignore_eos": True}
