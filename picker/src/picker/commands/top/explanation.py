"""Decisions as sentences and tables."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from picker.observability.decisions import Candidate, Decision


def explanation(decision: Decision) -> RenderableType:
    """All that is known of one decision."""
    lines = [_request(decision), _decided(decision), *_became(decision)]
    title = Text.assemble(
        ("request ", "dim"), (decision.request_id or "without an id", "bold"),
        (f"  {decision.at.astimezone():%Y-%m-%d %H:%M:%S %Z}", "dim"),
    )  # fmt: skip
    text = Padding(Text("\n".join(lines)), (0, 0, 1, 2), expand=False)
    if not decision.candidates:
        return Group(title, text)
    return Group(title, text, Padding(_candidates(decision.candidates), (0, 0, 0, 2), expand=False))


def overview(decisions: Sequence[Decision]) -> RenderableType:
    """A line each."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("time", "request", "pool", "model", "went to"):
        table.add_column(name)
    for name in ("prompt tok", "cached", "cost", "decided in", "took"):
        table.add_column(name, justify="right")
    for each in decisions:
        best = each.candidates[0].cost if each.candidates else None
        row: list[str | Text] = [
            f"{each.at.astimezone():%H:%M:%S}",
            (each.request_id or "-")[:8],
            each.pool or "-",
            each.model or "-",
            _destination(each),
            f"{each.prompt_tokens:,}",
            f"{each.cached_tokens:,}",
            _cost(best),
            f"{each.decision_s * 1000:.2f} ms",
            f"{each.duration_s:.2f} s" if each.duration_s is not None else each.outcome,
        ]
        table.add_row(*map(_cell, row))
    return table


def _request(decision: Decision) -> str:
    model = f"model {decision.model}" if decision.model else "no model"
    if decision.target_model not in (None, decision.model):
        model += f", served as {decision.target_model}"
    facts = [decision.path, model, decision.criticality, f"{decision.prompt_tokens:,} prompt tokens"]
    if decision.output_tokens:
        facts.append(f"up to {decision.output_tokens:,} output tokens")
    pool = f"pool {decision.pool}, strategy {decision.strategy}" if decision.pool else "no pool that the picker knows"
    return f"{', '.join(fact for fact in facts if fact)}\n{pool}"


def _destination(decision: Decision) -> str | Text:
    if decision.reason is not None:
        return Text(decision.reason, style="yellow")
    return f"{decision.server} (fell back)" if decision.fell_back else decision.server or "-"


def _decided(decision: Decision) -> str:
    took = f"decided in {decision.decision_s * 1000:.2f} ms"
    if decision.reason is not None:
        return f"rejected with {decision.status}, {decision.reason}: {decision.detail} ({took})"
    if not decision.candidates:
        return f"went to {decision.server} ({took})"
    picked = decision.candidates[0]
    return f"picked {picked.server}, {_by_cost(decision.candidates)}{_by_cache(decision)} ({took})"


def _by_cost(candidates: Sequence[Candidate]) -> str:
    picked, *others = candidates
    cost = picked.cost or 0.0
    cheaper = [each.server for each in others if each.cost is not None and each.cost < cost]
    if cheaper:
        return f"cost {_cost(cost)}; cheaper ones refused connections: {', '.join(cheaper)}"
    why = f"the cheapest of {len(candidates)}: cost {_cost(cost)}"
    equals = sum(each.cost == cost for each in candidates)
    if equals > 1:
        return f"{why}, drawn by lot among {equals} equals"
    return f"{why} against {_cost(others[0].cost)} of {others[0].server}" if others else why


def _by_cache(decision: Decision) -> str:
    holder = max(decision.candidates, key=lambda each: each.cached_tokens or 0)
    most, cached = holder.cached_tokens or 0, decision.candidates[0].cached_tokens or 0
    if not most:
        return ""
    why = f"; {cached:,} prompt tokens ({cached / max(1, decision.prompt_tokens):.0%}) thought to be cached there"
    return why if cached == most else f"{why}, {most:,} on {holder.server}, which would have cost more"


def _became(decision: Decision) -> list[str]:
    if decision.reason is not None:
        return []
    facts: list[str] = []
    if decision.fell_back:
        facts.append(f"{decision.server} served it: the proxy fell back")
    if decision.status is not None:
        facts.append(f"answered {decision.status}")
    if decision.first_byte_s is not None:
        facts.append(f"first byte after {decision.first_byte_s:.3f} s")
    ended = f"ended after {decision.duration_s:.2f} s" if decision.duration_s is not None else "still in flight"
    return [", ".join([*facts, ended])]


def _candidates(candidates: Sequence[Candidate]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("", "endpoint", "address"):
        table.add_column(name)
    for name in ("cost", "cached tok", "in flight", "running", "queue", "KV cache"):
        table.add_column(name, justify="right")
    for each in candidates:
        usage = each.kv_cache_usage
        row = [
            str(each.rank or ""),
            each.server,
            each.address,
            _cost(each.cost),
            f"{each.cached_tokens:,}" if each.cached_tokens is not None else "-",
            str(each.in_flight_requests),
            str(each.running) if each.running is not None else "-",
            str(each.queue_depth) if each.queue_depth is not None else "-",
            f"{usage:.0%}" if usage is not None else "-",
        ]
        table.add_row(*map(_cell, row), style="bold" if each.rank == 1 else "")
    return table


def _cell(content: str | Text) -> Text:
    """A string would be read as markup."""
    return content if isinstance(content, Text) else Text(content)


def _cost(cost: float | None) -> str:
    return "-" if cost is None else f"{cost:,.0f}" if cost >= 10 else f"{cost:.2f}"
