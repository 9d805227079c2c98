"""Events on objects that the API server let through and that are wrong nevertheless: what `kubectl describe` shows."""

from collections.abc import Set
from datetime import UTC, datetime

import httpx2
import structlog
from lightkube import AsyncClient
from lightkube.models.core_v1 import EventSource, ObjectReference
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Event
from pydantic import ValidationError

from picker.bounded_text import shorten
from picker.resources.parse import KINDS
from picker.resources.problems import field_path, sentence
from picker.sources.informer import UNREADABLE, Json

COMPONENT = "inference-gateway"
MAX_MESSAGE = 1024
"""What an Event has room for."""

log = structlog.get_logger(__name__)


class EventRecorder:
    """Records each problem of each version of an object once."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._recorded: dict[str, str] = {}
        """The problems last recorded of an object that has some, by its uid."""

    async def record_problems(self, object_: Json) -> None:
        """A warning event on an object that is wrong."""
        uid = object_["metadata"]["uid"]
        problems = shorten("; ".join(_problems(object_)), MAX_MESSAGE)
        if self._recorded.get(uid, "") == problems:
            return
        if problems:
            self._recorded[uid] = problems
            await self._create(object_, problems)
        else:
            del self._recorded[uid]

    def keep_only(self, uids: Set[str]) -> None:
        """Discard what was recorded of objects that are gone."""
        for uid in self._recorded.keys() - uids:
            del self._recorded[uid]

    async def _create(self, object_: Json, message: str) -> None:
        metadata = object_["metadata"]
        now = datetime.now(UTC)
        event = Event(
            metadata=ObjectMeta(generateName=f"{metadata['name']}.", namespace=metadata["namespace"]),
            involvedObject=ObjectReference(
                apiVersion=object_["apiVersion"],
                kind=object_["kind"],
                name=metadata["name"],
                namespace=metadata["namespace"],
                uid=metadata["uid"],
                resourceVersion=metadata["resourceVersion"],
            ),
            type="Warning",
            reason="Invalid",
            message=message,
            source=EventSource(component=COMPONENT),
            firstTimestamp=now,
            lastTimestamp=now,
            count=1,
        )
        try:
            await self._client.create(event)
        except (httpx2.HTTPError, OSError, *UNREADABLE) as error:
            # The log has it too; an event is a courtesy.
            log.warning("event.not_written", reason=shorten(str(error).partition("\n")[0]))


def _problems(object_: Json) -> list[str]:
    wire = KINDS.get(object_["kind"], {}).get(object_["apiVersion"])
    if wire is None:
        return []
    try:
        wire.model_validate(object_, extra="ignore")
    except ValidationError as error:
        return [f"{field_path(each['loc'])}: {sentence(each, wire)}" for each in error.errors()]
    return []
