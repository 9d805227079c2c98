"""Waiting with a reason."""

from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

Seen = TypeVar("Seen")

PATIENCE_S = 120
"""Nothing here takes a tenth of it on a machine that does nothing else; two cores may have much else to do."""


class NotYet(Exception):
    """The condition does not hold."""


def until(holds: Callable[[], Seen], what: str, timeout_s: float = PATIENCE_S, interval_s: float = 0.1) -> Seen:
    """What `holds` returns once that is true. Fails with `what` and what was seen last."""
    seen: object = None
    try:
        for attempt in Retrying(
            stop=stop_after_delay(timeout_s), wait=wait_fixed(interval_s), retry=retry_if_exception_type(NotYet)
        ):
            with attempt:
                seen = holds()
                if not seen:
                    raise NotYet
                return seen  # type: ignore[return-value]
    except RetryError:
        pass
    raise AssertionError(f"waited {timeout_s:g} s in vain until {what}; seen last: {seen!r}")
