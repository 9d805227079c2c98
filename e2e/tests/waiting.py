"""Waiting for conditions, with a word when they do not come true."""

import asyncio
from collections.abc import Awaitable, Callable

_POLL_S = 0.01


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    """Wait until `condition` holds; fails with `what` when it does not."""

    async def look() -> bool:
        return condition()

    await eventually(look, what, timeout_s)


async def eventually(condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 10.0) -> None:
    """`until`, for a condition that has to be asked for."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await condition():  # noqa: ASYNC110 - the states of other processes have no event
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise AssertionError(f"after {timeout_s:g} s: {what}") from None
