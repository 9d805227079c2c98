"""LoRA adapters, loaded at startup or, if allowed, at run time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from vllm_mock.generation.errors import ApiError
from vllm_mock.generation.request_body import LoadLoraBody


class AdapterMissing(Exception):
    """No adapter exists at a path."""


class Adapters(Protocol):
    """A source of adapters."""

    def rank(self, path: str) -> int:
        """The rank of the adapter at `path`. Raises AdapterMissing."""
        ...


class _AdapterConfig(msgspec.Struct):
    """The fields used of adapter_config.json."""

    r: int = 8


class AdaptersOnDisk:
    """Reads ranks from disk.

    The mock needs no weights: unless `must_exist` is set, a missing path is an adapter of rank 8, vLLM's usual rank.
    """

    def __init__(self, must_exist: bool = False) -> None:
        self._must_exist = must_exist

    def rank(self, path: str) -> int:
        file = Path(path) / "adapter_config.json"
        try:
            return msgspec.json.decode(file.read_bytes(), type=_AdapterConfig).r
        except (OSError, msgspec.MsgspecError):
            if self._must_exist:
                raise AdapterMissing(path) from None
            return _AdapterConfig().r


class Loras:
    """The adapters of one server, in loading order."""

    def __init__(self, base_models: tuple[str, ...], adapters: Adapters, max_rank: int) -> None:
        self._base_models = base_models
        self._adapters = adapters
        self._max_rank = max_rank
        self._paths: dict[str, str] = {}

    @property
    def paths(self) -> Mapping[str, str]:
        return self._paths

    def load(self, body: LoadLoraBody) -> None:
        """Loads an adapter. Raises ApiError."""
        name, path = body.lora_name, body.lora_path
        if not name or not path:
            raise ApiError(400, "Both 'lora_name' and 'lora_path' must be provided.", None, "InvalidUserInput")
        if name in self._base_models:
            message = f"The lora adapter '{name}' conflicts with a served base model."
            raise ApiError(400, message, None, "InvalidUserInput")
        if name in self._paths and not body.load_inplace:
            message = (
                f"The lora adapter '{name}' has already been loaded. "
                "If you want to load the adapter in place, set 'load_inplace' to True."
            )
            raise ApiError(400, message, None, "InvalidUserInput")
        try:
            rank = self._adapters.rank(path)
        except AdapterMissing:
            # vLLM omits paths from its responses.
            message = f"Loading lora {name} failed: No adapter found for <path>"
            raise ApiError(404, message, None, "NotFoundError") from None
        if rank > self._max_rank:
            message = (
                "Call to add_lora method failed: Worker failed with error "
                f"'LoRA rank {rank} is greater than max_lora_rank {self._max_rank}.', "
                "please check the stack trace above for the root cause"
            )
            raise ApiError(500, message, None, "InternalServerError")
        self._paths[name] = path

    def unload(self, name: str) -> None:
        """Unloads an adapter. Its running requests continue. Raises ApiError."""
        if not name:
            raise ApiError(400, "'lora_name' needs to be provided to unload a LoRA adapter.", None, "InvalidUserInput")
        if name not in self._paths:
            raise ApiError(404, f"The lora adapter '{name}' cannot be found.", None, "NotFoundError")
        del self._paths[name]
