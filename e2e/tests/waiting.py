"""Waits for conditions, with a description for the error message."""

import asyncio
from collections.abc import Awaitable, Callable

_POLL_S = 0.01


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    """Waits until `condition` holds. Raises AssertionError with `what` after `timeout_s`."""

    async def holds() -> bool:
        return condition()

    await eventually(holds, what, timeout_s)


async def eventually(condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 10.0) -> None:
    """As `until`, for an asynchronous condition."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await condition():  # noqa: ASYNC110 - the states of other processes have no event
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise AssertionError(f"timeout after {timeout_s:g} s, waiting until: {what}") from None
