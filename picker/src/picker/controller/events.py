"""Warning events on invalid objects that the API server has accepted; `kubectl describe` shows them."""

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
"""Maximum length of an Event's message."""

log = structlog.get_logger(__name__)


class EventRecorder:
    """Records each problem of each version of an object once."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._recorded: dict[str, str] = {}
        """The last recorded problems of an object, by its uid."""

    async def record_problems(self, object_: Json) -> None:
        """Writes a warning event if the object is invalid and the problems are new."""
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
        """Discards what was recorded of deleted objects."""
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
            # The problem is logged too; the event is optional.
            log.warning("event.write_failed", reason=shorten(str(error).partition("\n")[0]))


def _problems(object_: Json) -> list[str]:
    wire = KINDS.get(object_["kind"], {}).get(object_["apiVersion"])
    if wire is None:
        return []
    try:
        wire.model_validate(object_, extra="ignore")
    except ValidationError as error:
        return [f"{field_path(problem['loc'])}: {sentence(problem, wire)}" for problem in error.errors()]
    return []
