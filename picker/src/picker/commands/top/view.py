"""Renders pools and endpoints for a terminal."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from picker.observability.admin import EndpointState
from picker.observability.pool_states import PoolState

BAR_CELLS = 12
STALE_S = 5.0
"""Age from which metrics are marked as stale: the picker no longer rejects requests because of them."""

NEARLY_FULL = 0.9
HALF_FULL = 0.5
"""KV cache usage from which a server soon queues, and from which the picker avoids it."""


class Sample(NamedTuple):
    """The pools at one time."""

    at_s: float
    pools: Sequence[PoolState]


def view(current: Sample, previous: Sample | None, url: str) -> RenderableType:
    """Renders the pools. Rates are since `previous`; without it, counts are since the picker's start."""
    previous_pools = {pool.pool: pool for pool in previous.pools} if previous is not None else {}
    seconds = current.at_s - previous.at_s if previous is not None else 0.0
    if not current.pools:
        return Text(f"{url}: the picker serves no pools")
    parts: list[RenderableType] = []
    for pool in current.pools:
        parts += [
            _headline(pool, previous_pools.get(pool.pool), seconds),
            Padding(_endpoints(pool), (0, 0, 1, 2), expand=False),
        ]
    return Group(Text(url, style="dim"), *parts)


def _headline(pool: PoolState, previous: PoolState | None, seconds: float) -> Text:
    text = Text.assemble((pool.pool, "bold"), f"  {pool.strategy}  ")
    if previous is None or not seconds:
        facts = [
            f"{pool.decisions:,} requests",
            f"{pool.running:,} running",
            f"{pool.rejected:,} rejected",
            *_shares(pool.decisions, pool.prompt_tokens, pool.cached_tokens, pool.decision_s),
        ]
    else:
        decisions = pool.decisions - previous.decisions
        facts = [
            f"{decisions / seconds:,.1f} requests/s",
            f"{pool.running:,} running",
            f"{(pool.rejected - previous.rejected) / seconds:,.1f}/s rejected",
            *_shares(
                decisions,
                pool.prompt_tokens - previous.prompt_tokens,
                pool.cached_tokens - previous.cached_tokens,
                pool.decision_s - previous.decision_s,
            ),
        ]
    return text.append("  ".join(facts))


def _shares(decisions: int, prompt_tokens: int, cached_tokens: int, decision_s: float) -> list[str]:
    facts: list[str] = []
    if prompt_tokens:
        facts.append(f"{cached_tokens / prompt_tokens:.0%} of prompt tokens cached (estimate)")
    if decisions:
        facts.append(f"{decision_s / decisions * 1000:.2f} ms a decision")
    return facts


def _endpoints(pool: PoolState) -> RenderableType:
    if not pool.endpoints:
        return Text("no ready endpoint", style="red")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("endpoint")
    table.add_column("address")
    for name in ("in flight", "running", "queue"):
        table.add_column(name, justify="right")
    table.add_column("KV cache")
    for name in ("prefill tok", "decode tok", "scraped"):
        table.add_column(name, justify="right")
    for endpoint in pool.endpoints:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in _row(endpoint)))
    return table


def _row(endpoint: EndpointState) -> list[str | Text]:
    queue = endpoint.queue_depth
    return [
        endpoint.server,
        endpoint.address,
        str(endpoint.in_flight_requests),
        _or_dash(endpoint.running),
        Text(_or_dash(queue), style="yellow" if queue else ""),
        _bar(endpoint.kv_cache_usage),
        f"{endpoint.in_flight_prefill_tokens:,}",
        f"{endpoint.in_flight_decode_tokens:,}",
        _scraped(endpoint),
    ]


def _bar(usage: float | None) -> Text:
    if usage is None:
        return Text("-")
    filled = min(BAR_CELLS, round(usage * BAR_CELLS))
    style = "red" if usage > NEARLY_FULL else "yellow" if usage > HALF_FULL else "green"
    return Text.assemble(("█" * filled, style), ("░" * (BAR_CELLS - filled), "dim"), f" {usage:4.0%}")


def _scraped(endpoint: EndpointState) -> Text:
    if endpoint.refuses_connections:
        return Text("refuses connections", style="red")
    if endpoint.metrics_age_s is None:
        return Text("never", style="red")
    every = f"every {endpoint.scrape_interval_s:.1f} s, " if endpoint.scrape_interval_s is not None else ""
    style = "red" if endpoint.metrics_age_s > STALE_S else "dim"
    return Text(f"{every}{endpoint.metrics_age_s:.1f} s ago", style=style)


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)
