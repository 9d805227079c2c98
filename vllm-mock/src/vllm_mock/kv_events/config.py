"""`--kv-events-config`: a JSON object with vLLM's own fields and defaults."""

import msgspec


class InvalidKvEventsConfig(ValueError):
    """The object is not JSON, or has a field that is unknown or of the wrong type."""


class KvEventsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """See `vllm serve --help`."""

    enable_kv_cache_events: bool = False
    publisher: str | None = None
    """`zmq` or `null`; not given, it is `zmq` where events are enabled."""
    endpoint: str = "tcp://*:5557"
    """With a wildcard, or for ipc and inproc, bound; else connected to."""
    replay_endpoint: str | None = None
    """Always bound."""
    buffer_steps: int = 10_000
    """Batches that can be asked for again."""
    hwm: int = 100_000
    """Batches that a slow subscriber may be behind before it loses some."""
    max_queue_size: int = 100_000
    """Taken for compatibility: batches are sent in the step that made them, so none queue here."""
    topic: str = ""

    @property
    def publishes(self) -> bool:
        return self.enable_kv_cache_events and self.publisher != "null"

    @classmethod
    def read(cls, text: str) -> "KvEventsConfig":
        """Raises InvalidKvEventsConfig."""
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
        """The same with ports of its own, as vLLM moves those of data-parallel ranks."""
        replay = self.replay_endpoint
        return msgspec.structs.replace(
            self,
            endpoint=_moved(self.endpoint, number),
            replay_endpoint=_moved(replay, number) if replay is not None else None,
        )


def _moved(endpoint: str, number: int) -> str:
    base, _, port = endpoint.rpartition(":")
    if number == 0:
        return endpoint
    if endpoint.startswith("tcp://") and port.isdecimal():
        return f"{base}:{int(port) + number}"
    return f"{endpoint}_dp{number}"
