"""The server of the recordings, as described by `server.yaml` in their folder."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import msgspec
from command_settings import InvalidSettings
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from vllm_mock.engine.messages import EngineConfig
from vllm_mock.settings import ServeSettings

FILE = "server.yaml"
Flags = dict[str, Any]
_TIME_SCALE = 20
"""Factor by which steps are replayed faster than recorded. Judgement: the tests of one folder then take seconds."""
_START: Flags = {
    "model": "/models/tiny",
    "served_model_name": ["/model/qwen"],
    "max_model_len": 2048,
    "max_num_seqs": 8,
    "block_size": 32,
    "num_gpu_blocks_override": 512,
}
"""Assumed in a folder without server.yaml: the start command of 0.32.0's recordings."""
_NOT_FLAGS = frozenset({"config", "time_scale", "step_floor_s", "tokenizer", "older_chat_fields", "answer_tokens"})
"""Settings of the mock that are not flags of the recorded server."""


class InvalidServer(InvalidSettings):
    """A server.yaml is invalid. The message names the file, the key and the error."""


class _Difference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    files: list[str]
    flags: Flags = {}
    step_floor_ms: Annotated[float, msgspec.Meta(ge=0)] | None = None


class _ServerFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    flags: Flags = {}
    vllm: str = ""
    step_floor_ms: Annotated[float, msgspec.Meta(ge=0)] = 10
    vocabulary_size: Annotated[int, msgspec.Meta(ge=1)] = 1000
    end_of_sequence: Annotated[int, msgspec.Meta(ge=0)] = 0
    differs: list[_Difference] = []


@dataclass(frozen=True, slots=True)
class RecordedServer:
    """Settings of each recording in a folder."""

    is_described: bool
    """Whether the folder has a server.yaml. Otherwise settings are inferred."""
    described: _ServerFile

    def settings(self, file: str) -> ServeSettings:
        """Settings for the recording `file`: a path in the folder, or `FILE#NAME`. Raises InvalidServer."""
        flags, floor_ms = dict(self.described.flags), self.described.step_floor_ms
        for difference in self.described.differs:
            if any(fnmatchcase(file, pattern) for pattern in difference.files):
                flags |= difference.flags
                floor_ms = floor_ms if difference.step_floor_ms is None else difference.step_floor_ms
        not_flags = sorted(_NOT_FLAGS & flags.keys())
        if not_flags:
            raise InvalidServer(f"{FILE}: flags.{not_flags[0]}: not a flag of a recorded server")
        try:
            return ServeSettings(
                **flags,
                step_floor_s=floor_ms / 1000,
                time_scale=_TIME_SCALE,
                tokenizer="approximate",
                older_chat_fields=False,
                answer_tokens=100_000,
            )  # pyright: ignore[reportCallIssue]
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise InvalidServer(f"{FILE}: flags.{name} for {file}: {first['msg']}") from None

    @property
    def vocabulary_size(self) -> int:
        return self.described.vocabulary_size

    @property
    def end_of_sequence(self) -> int:
        return self.described.end_of_sequence


def read_server(folder: Path) -> RecordedServer:
    """Reads `folder`/server.yaml, or infers the settings if there is none. Raises InvalidServer."""
    file = folder / FILE
    if not file.exists():
        return RecordedServer(False, _ServerFile(_START | _shown_limits(folder / "metrics-idle.txt")))
    try:
        return RecordedServer(True, msgspec.yaml.decode(file.read_bytes(), type=_ServerFile))
    except (msgspec.DecodeError, OSError) as error:
        raise InvalidServer(f"{file}: {error}") from None


def engine_config(settings: ServeSettings) -> EngineConfig:
    """The engine's configuration for `settings`."""
    return EngineConfig(
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        block_size=settings.block_size,
        num_gpu_blocks=settings.num_gpu_blocks_override or EngineConfig.num_gpu_blocks,
        enable_prefix_caching=settings.enable_prefix_caching,
        enable_chunked_prefill=settings.enable_chunked_prefill,
        enable_lora=settings.enable_lora,
        max_loras=settings.max_loras,
    )


def page_limits(text: str) -> Flags:
    """Limits in a page's `vllm:cache_config_info`, by flag name. Empty if the page has none."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples if family.name == "vllm:cache_config_info" else ():
            labels = sample.labels
            blocks, size = int(labels["num_gpu_blocks"]), int(labels["block_size"])
            return {
                "num_gpu_blocks_override": blocks,
                "block_size": size,
                "enable_prefix_caching": labels["enable_prefix_caching"] == "True",
                "max_model_len": round(blocks * size / float(labels["kv_cache_max_concurrency"])),
            }
    return {}


def _shown_limits(page: Path) -> Flags:
    return page_limits(page.read_text()) if page.exists() else {}
