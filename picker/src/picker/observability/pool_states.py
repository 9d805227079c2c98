"""Pools as they are now and what was counted for them, for those who watch a picker: `picker top`."""

from collections.abc import Iterable, Sequence

import msgspec

from picker.admin import EndpointState, endpoint_state
from picker.extproc.desk import ServedPool
from picker.observability.tally import Tallies, by_pool
from picker.observability.watched_desk import pool_label


class PoolState(msgspec.Struct, frozen=True):
    """A pool as `/pools` shows it. Counts are since the picker's start."""

    pool: str
    strategy: str
    decisions: int
    """Requests that got an endpoint."""
    turned_away: int
    running: int
    """Of the decisions, those that have not ended."""
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt tokens, those thought to be cached where they were sent."""
    decision_s: float
    """Spent deciding, all decisions together."""
    prefix_blocks: int
    """Distinct blocks that some endpoint is thought to hold."""
    endpoints: Sequence[EndpointState]


def pool_states(pools: Iterable[ServedPool], tallies: Tallies, now_s: float) -> list[PoolState]:
    """`now_s` is on the clock of the scrapes."""
    counted = by_pool(tallies)
    states: list[PoolState] = []
    for served in pools:
        label = pool_label(served.pool.name)
        mine = counted.get(label, [])
        states.append(
            PoolState(
                pool=label,
                strategy=served.scheduler.strategy,
                decisions=sum(tally.picked for tally in mine),
                turned_away=sum(tally.refused for tally in mine),
                running=sum(tally.running for tally in mine),
                prompt_tokens=int(sum(tally.prompt_tokens.sum for tally in mine)),
                cached_tokens=sum(tally.cached_tokens for tally in mine),
                decision_s=sum(tally.decision_seconds.sum for tally in mine),
                prefix_blocks=len(served.prefixes),
                endpoints=[endpoint_state(label, endpoint, now_s, served.prefixes) for endpoint in served.endpoints],
            )
        )
    return states
