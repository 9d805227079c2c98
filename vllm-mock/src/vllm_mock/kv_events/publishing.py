"""From the flag to the sockets. ZeroMQ is imported only where events are published."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_mock.kv_events.config import InvalidKvEventsConfig, KvEventsConfig
from vllm_mock.kv_events.log import KvEventLog
from vllm_mock.kv_events.messages import Encoding

if TYPE_CHECKING:
    from vllm_mock.kv_events.publisher import KvEventPublisher


@dataclass(frozen=True, slots=True)
class KvEvents:
    """Of one engine: what its block pool tells, and who publishes it."""

    log: KvEventLog
    publisher: "KvEventPublisher"


def kv_events(text: str, replica: int, block_size: int, metrics_profile: str) -> KvEvents | None:
    """As `--kv-events-config` says in `text`; None when that is to publish nothing. Servers of a generation before
    `v1-current` encode events as arrays. Raises InvalidKvEventsConfig, also for an address that cannot be bound."""
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
