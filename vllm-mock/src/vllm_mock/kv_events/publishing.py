"""Sets up KV events from `--kv-events-config`. ZeroMQ is imported only if events are published."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_mock.kv_events.config import InvalidKvEventsConfig, KvEventsConfig
from vllm_mock.kv_events.log import KvEventLog
from vllm_mock.kv_events.messages import Encoding

if TYPE_CHECKING:
    from vllm_mock.kv_events.publisher import KvEventPublisher


@dataclass(frozen=True, slots=True)
class KvEvents:
    """The event log of an engine's block pool, and its publisher."""

    log: KvEventLog
    publisher: "KvEventPublisher"


def kv_events(text: str, replica: int, block_size: int, metrics_profile: str) -> KvEvents | None:
    """KV events as the `--kv-events-config` in `text` says. None if it publishes nothing.

    Metrics profiles other than `v1-current` encode events as arrays. Raises InvalidKvEventsConfig, also if an address
    cannot be bound.
    """
    config = KvEventsConfig.read(text).for_replica(replica)
    if not config.publishes:
        return None
    from zmq import ZMQError

    from vllm_mock.kv_events.publisher import KvEventPublisher

    encoding = Encoding.MAP if metrics_profile == "v1-current" else Encoding.ARRAY
    try:
        publisher = KvEventPublisher(config, encoding)
    except ZMQError as error:
        raise InvalidKvEventsConfig(f"kv_events_config: {config.endpoint}: {error}") from None
    return KvEvents(KvEventLog(block_size, publisher.publish), publisher)
