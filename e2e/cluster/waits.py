"""Waits for conditions, with a description for the error message."""

from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

Seen = TypeVar("Seen")

TIMEOUT_S = 120
"""Measured: on an idle machine no wait takes a tenth of this. Two busy cores may take longer."""


class NotYet(Exception):
    """The condition does not hold yet."""


def until(holds: Callable[[], Seen], what: str, timeout_s: float = TIMEOUT_S, interval_s: float = 0.1) -> Seen:
    """Waits until `holds` returns a true value, and returns it.

    Raises AssertionError after `timeout_s`, with `what` and the last value.
    """
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
    raise AssertionError(f"timeout after {timeout_s:g} s, waiting until: {what}; last value: {seen!r}")
