"""The state of the server before a recorded exchange, and its flags if server.yaml is missing.

Both are inferred from the exchange: loaded and missing adapters, a full queue, headers that only a flag adds. The
response itself comes from the mock.
"""

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
class Fixture:
    """The settings and the state of the server for an exchange."""

    settings: ServeSettings
    before: tuple[tuple[str, Json], ...] = ()
    """Requests (path, body) that are sent before and have completed."""
    in_flight: int = 0
    """Completions that run during the exchange."""
    adapters: "RecordedAdapters | None" = None
    """None means adapters on disk."""


@dataclass(frozen=True, slots=True)
class RecordedAdapters:
    """The adapters on the disk of the recorded server."""

    missing: frozenset[str] = frozenset()
    ranks: dict[str, int] = field(default_factory=dict[str, int])

    def rank(self, path: str) -> int:
        if path in self.missing:
            raise AdapterMissing(path)
        return self.ranks.get(path, 8)


@dataclass(frozen=True, slots=True)
class RecordingConfig:
    """Flags inferred from all exchanges of a folder."""

    keys: tuple[str, ...]
    """Accepted API keys."""
    max_loras: int = 2
    max_lora_rank: int = 8


def recording_config(folder: Path, exchanges: list[Exchange]) -> RecordingConfig:
    keys = {
        (exchange.request.header("authorization") or "").removeprefix("Bearer ")
        for exchange in exchanges
        if exchange.request.header("authorization") and exchange.response.status != 401
    }
    states = folder.parent / "states.json"
    config: Json = msgspec.json.decode(states.read_bytes()).get("config", {}) if states.exists() else {}
    return RecordingConfig(
        tuple(sorted(keys)) or ("recorded-key",), config.get("max_loras", 2), config.get("max_lora_rank", 8)
    )


def with_flags(exchange: Exchange, start: ServeSettings) -> Fixture:
    """The fixture of an exchange in flags/, whose server had the settings `start`."""
    if exchange.response.status == 503 and start.max_num_queued_reqs is not None:
        return Fixture(start, in_flight=start.max_num_queued_reqs)
    return Fixture(start, _cache_fill(exchange), int(exchange.response.fields.get("server_load", 0)))


def with_loras(exchange: Exchange, start: ServeSettings) -> Fixture:
    """The fixture of an exchange in lora/, whose server had the settings `start`."""
    before = tuple(
        ("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})
        for name, path in _loaded(exchange, start.names).items()
    )
    return Fixture(start, before, adapters=_adapters(exchange))


def inferred(part: str, exchange: Exchange, config: RecordingConfig, start: ServeSettings) -> ServeSettings:
    """`start` with the flags that an exchange of `part` shows, for folders without server.yaml."""
    flags: Json = {}
    if part == "lora/http":
        flags = {
            "enable_lora": True,
            "max_loras": config.max_loras,
            "max_lora_rank": config.max_lora_rank,
            "max_num_seqs": 4,
        }
    elif part == "flags/http" and exchange.response.status == 503:
        flags = {
            "max_num_queued_reqs": exchange.number_in_note("max-num-queued-reqs", 4),
            "max_num_seqs": exchange.number_in_note("max_num_seqs", 2),
        }
    elif part == "flags/http" and "x-request-id" in exchange.response.headers:
        flags = {
            "api_key": list(config.keys),
            "enable_request_id_headers": True,
            "enable_server_load_tracking": True,
            "enable_prompt_tokens_details": True,
            "max_num_seqs": exchange.number_in_note("max_num_seqs", start.max_num_seqs),
        }
    return start.model_copy(update=flags)


def _cache_fill(exchange: Exchange) -> tuple[tuple[str, Json], ...]:
    """A request that fills the prefix cache if the exchange had hits. Recorded hits all come from the same prompt."""
    for answer in (exchange.response.fields, *exchange.chunks):
        details = fields_of(fields_of(answer.get("usage")).get("prompt_tokens_details"))
        if details.get("cached_tokens"):
            body = {**exchange.request.fields, "stream": False, "max_tokens": 1}
            body.pop("stream_options", None)
            return ((exchange.request.path, body),)
    return ()


def _loaded(exchange: Exchange, names: tuple[str, ...]) -> dict[str, str]:
    """Adapters (name to path) that must be loaded to reproduce the exchange."""
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
    response, path = str(exchange.response.fields), exchange.request.fields.get("lora_path", "")
    if "No adapter found" in response:
        return RecordedAdapters(frozenset({path}))
    rank = _RANK.search(response)
    return RecordedAdapters(ranks={path: int(rank[1])} if rank else {})


def filling(number: int, max_model_len: int) -> Json:
    """The body of a completion that outlasts an exchange."""
    prompt = [10 + number] * 8
    return {"prompt": prompt, "max_tokens": min(_FILLING_TOKENS, max_model_len - len(prompt)), "ignore_eos": True}
