"""Collects the KV events of a step and publishes them at its end."""

from collections.abc import Callable, Sequence

from vllm_mock.engine.blocks import BlockHash
from vllm_mock.kv_events.messages import MEDIUM, AllBlocksCleared, BlockRemoved, BlockStored, Event

_GROUP = 0
_KIND = "full_attention"


class KvEventLog:
    """An `engine.blocks.BlockListener`."""

    def __init__(self, block_size: int, publish: Callable[[list[Event]], None]) -> None:
        """`publish` is called at the end of each step with events."""
        self._block_size = block_size
        self._publish = publish
        self._events: list[Event] = []
        self._lora_ids: dict[str, int] = {}

    def stored(
        self,
        parent: BlockHash | None,
        hashes: Sequence[BlockHash],
        tokens: Sequence[int],
        lora: str | None,
        salt: str | None,
    ) -> None:
        adapter = (lora,) if lora is not None else ()
        first = (*adapter, salt) if salt is not None and parent is None else adapter
        keys = [first or None, *[adapter or None] * (len(hashes) - 1)]
        self._events.append(
            BlockStored(
                block_hashes=[_number(block_hash) for block_hash in hashes],
                parent_block_hash=_number(parent) if parent is not None else None,
                token_ids=list(tokens),
                block_size=self._block_size,
                lora_id=self._lora_ids.setdefault(lora, len(self._lora_ids) + 1) if lora is not None else None,
                medium=MEDIUM,
                lora_name=lora,
                extra_keys=keys,
                group_idx=_GROUP,
                kv_cache_spec_kind=_KIND,
            )
        )

    def removed(self, block_hash: BlockHash) -> None:
        self._events.append(BlockRemoved(block_hashes=[_number(block_hash)], medium=MEDIUM, group_idx=_GROUP))

    def cleared(self) -> None:
        """The prefix cache was reset. This happens outside steps: the event is published with the next step's."""
        self._events.append(AllBlocksCleared())

    def step_ended(self) -> None:
        if self._events:
            self._publish(self._events)
            self._events = []


def _number(block_hash: BlockHash) -> int:
    """The low 64 bits of a hash, which vLLM publishes by default."""
    return int.from_bytes(block_hash[-8:], "big")
