"""`--kv-events-config`: a JSON object with vLLM's fields and defaults."""

import msgspec


class InvalidKvEventsConfig(ValueError):
    """The text is not JSON, or a field is unknown or has the wrong type."""


class KvEventsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of vLLM's KVEventsConfig (see `vllm serve --help`)."""

    enable_kv_cache_events: bool = False
    publisher: str | None = None
    """`zmq` or `null`. None means `zmq` if events are enabled."""
    endpoint: str = "tcp://*:5557"
    """The publisher binds to an address with a wildcard and to ipc and inproc addresses. It connects to others."""
    replay_endpoint: str | None = None
    """The publisher always binds to this address. None means no replay."""
    buffer_steps: int = 10_000
    """Newest batches that are kept for replay."""
    hwm: int = 100_000
    """ZeroMQ's high-water mark: batches queued for a slow subscriber before some are discarded."""
    max_queue_size: int = 100_000
    """Ignored, accepted for compatibility: batches are sent in the step that made them, so none are queued."""
    topic: str = ""

    @property
    def publishes(self) -> bool:
        return self.enable_kv_cache_events and self.publisher != "null"

    @classmethod
    def read(cls, text: str) -> "KvEventsConfig":
        """Parses the JSON object `text`. Raises InvalidKvEventsConfig."""
        try:
            config = msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise InvalidKvEventsConfig(f"kv_events_config: {error}") from None
        if config.publisher not in (None, "null", "zmq"):
            raise InvalidKvEventsConfig(
                f"kv_events_config: publisher is {config.publisher!r}; allowed are 'zmq' and 'null'"
            )
        return config

    def for_replica(self, number: int) -> "KvEventsConfig":
        """The configuration of replica `number`, with shifted ports as for vLLM's data-parallel ranks."""
        replay = self.replay_endpoint
        return msgspec.structs.replace(
            self,
            endpoint=_shifted(self.endpoint, number),
            replay_endpoint=_shifted(replay, number) if replay is not None else None,
        )


def _shifted(endpoint: str, number: int) -> str:
    base, _, port = endpoint.rpartition(":")
    if number == 0:
        return endpoint
    if endpoint.startswith("tcp://") and port.isdecimal():
        return f"{base}:{int(port) + number}"
    return f"{endpoint}_dp{number}"
