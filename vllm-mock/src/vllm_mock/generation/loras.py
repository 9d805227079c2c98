"""LoRA adapters: loaded at the start and, where that is allowed, while running."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from vllm_mock.generation.errors import Refused
from vllm_mock.generation.request_body import LoadLoraBody


class AdapterMissing(Exception):
    """There is no adapter at a path."""


class Adapters(Protocol):
    """Where adapters lie."""

    def rank(self, path: str) -> int:
        """Raises AdapterMissing."""
        ...


class _AdapterConfig(msgspec.Struct):
    """Of adapter_config.json, what is used here."""

    r: int = 8


class AdaptersOnDisk:
    """Reads the rank where there is something to read. The mock needs no weights: unless told to check, it takes a path
    that does not exist for an adapter of rank 8, vLLM's usual one."""

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
    """The adapters of one server, in the order in which they were loaded."""

    def __init__(self, base_models: tuple[str, ...], adapters: Adapters, max_rank: int) -> None:
        self._base_models = base_models
        self._adapters = adapters
        self._max_rank = max_rank
        self._paths: dict[str, str] = {}

    @property
    def paths(self) -> Mapping[str, str]:
        return self._paths

    def load(self, body: LoadLoraBody) -> None:
        """Raises Refused."""
        name, path = body.lora_name, body.lora_path
        if not name or not path:
            raise Refused(400, "Both 'lora_name' and 'lora_path' must be provided.", None, "InvalidUserInput")
        if name in self._base_models:
            message = f"The lora adapter '{name}' conflicts with a served base model."
            raise Refused(400, message, None, "InvalidUserInput")
        if name in self._paths and not body.load_inplace:
            message = (
                f"The lora adapter '{name}' has already been loaded. "
                "If you want to load the adapter in place, set 'load_inplace' to True."
            )
            raise Refused(400, message, None, "InvalidUserInput")
        try:
            rank = self._adapters.rank(path)
        except AdapterMissing:
            # vLLM leaves paths out of its answers.
            message = f"Loading lora {name} failed: No adapter found for <path>"
            raise Refused(404, message, None, "NotFoundError") from None
        if rank > self._max_rank:
            message = (
                "Call to add_lora method failed: Worker failed with error "
                f"'LoRA rank {rank} is greater than max_lora_rank {self._max_rank}.', "
                "please check the stack trace above for the root cause"
            )
            raise Refused(500, message, None, "InternalServerError")
        self._paths[name] = path

    def unload(self, name: str) -> None:
        """Requests of it that run go on. Raises Refused."""
        if not name:
            raise Refused(400, "'lora_name' needs to be provided to unload a LoRA adapter.", None, "InvalidUserInput")
        if name not in self._paths:
            raise Refused(404, f"The lora adapter '{name}' cannot be found.", None, "NotFoundError")
        del self._paths[name]
