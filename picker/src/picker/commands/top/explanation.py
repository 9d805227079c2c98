"""Renders decisions as text and tables."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from picker.observability.decisions import Candidate, Decision


def explanation(decision: Decision) -> RenderableType:
    """Renders one decision in full."""
    lines = [_request(decision), _pick(decision), *_outcome(decision)]
    title = Text.assemble(
        ("request ", "dim"), (decision.request_id or "without an id", "bold"),
        (f"  {decision.at.astimezone():%Y-%m-%d %H:%M:%S %Z}", "dim"),
    )  # fmt: skip
    text = Padding(Text("\n".join(lines)), (0, 0, 1, 2), expand=False)
    if not decision.candidates:
        return Group(title, text)
    return Group(title, text, Padding(_candidates(decision.candidates), (0, 0, 0, 2), expand=False))


def overview(decisions: Sequence[Decision]) -> RenderableType:
    """Renders one line for each decision."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("time", "request", "pool", "model", "sent to"):
        table.add_column(name)
    for name in ("prompt tok", "cached", "cost", "decided in", "took"):
        table.add_column(name, justify="right")
    for decision in decisions:
        best = decision.candidates[0].cost if decision.candidates else None
        row: list[str | Text] = [
            f"{decision.at.astimezone():%H:%M:%S}",
            (decision.request_id or "-")[:8],
            decision.pool or "-",
            decision.model or "-",
            _destination(decision),
            f"{decision.prompt_tokens:,}",
            f"{decision.cached_tokens:,}",
            _cost(best),
            f"{decision.decision_s * 1000:.2f} ms",
            f"{decision.duration_s:.2f} s" if decision.duration_s is not None else decision.outcome,
        ]
        table.add_row(*map(_cell, row))
    return table


def _request(decision: Decision) -> str:
    model = f"model {decision.model}" if decision.model else "no model"
    if decision.target_model not in (None, decision.model):
        model += f", served as {decision.target_model}"
    priority = f"priority {decision.priority}" if abs(decision.priority or 0) > 1 else ""
    facts = [decision.path, model, decision.criticality, priority, f"{decision.prompt_tokens:,} prompt tokens"]
    if decision.output_tokens:
        facts.append(f"up to {decision.output_tokens:,} output tokens")
    pool = f"pool {decision.pool}, strategy {decision.strategy}" if decision.pool else "unknown pool"
    return f"{', '.join(fact for fact in facts if fact)}\n{pool}"


def _destination(decision: Decision) -> str | Text:
    if decision.reason is not None:
        return Text(decision.reason, style="yellow")
    return f"{decision.server} (rerouted)" if decision.fell_back else decision.server or "-"


def _pick(decision: Decision) -> str:
    took = f"decided in {decision.decision_s * 1000:.2f} ms"
    if decision.reason is not None:
        return f"rejected with {decision.status}, {decision.reason}: {decision.detail} ({took})"
    if not decision.candidates:
        return f"sent to {decision.server} ({took})"
    picked = decision.candidates[0]
    return f"picked {picked.server}, {_by_cost(decision.candidates)}{_by_cache(decision)} ({took})"


def _by_cost(candidates: Sequence[Candidate]) -> str:
    picked, *others = candidates
    cost = picked.cost or 0.0
    cheaper = [other.server for other in others if other.cost is not None and other.cost < cost]
    if cheaper:
        return f"cost {_cost(cost)}; cheaper endpoints refused connections: {', '.join(cheaper)}"
    why = f"the cheapest of {len(candidates)}: cost {_cost(cost)}"
    ties = sum(candidate.cost == cost for candidate in candidates)
    if ties > 1:
        return f"{why}, chosen at random among {ties} of equal cost"
    return f"{why} against {_cost(others[0].cost)} of {others[0].server}" if others else why


def _by_cache(decision: Decision) -> str:
    holder = max(decision.candidates, key=lambda candidate: candidate.cached_tokens or 0)
    max_cached, cached = holder.cached_tokens or 0, decision.candidates[0].cached_tokens or 0
    if not max_cached:
        return ""
    why = f"; {cached:,} prompt tokens ({cached / max(1, decision.prompt_tokens):.0%}) estimated to be cached there"
    return why if cached == max_cached else f"{why}, {max_cached:,} on {holder.server}, which has a higher cost"


def _outcome(decision: Decision) -> list[str]:
    if decision.reason is not None:
        return []
    facts: list[str] = []
    if decision.fell_back:
        facts.append(f"served by {decision.server}: rerouted by the proxy")
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
    for candidate in candidates:
        usage = candidate.kv_cache_usage
        row = [
            str(candidate.rank or ""),
            candidate.server,
            candidate.address,
            _cost(candidate.cost),
            f"{candidate.cached_tokens:,}" if candidate.cached_tokens is not None else "-",
            str(candidate.in_flight_requests),
            str(candidate.running) if candidate.running is not None else "-",
            str(candidate.queue_depth) if candidate.queue_depth is not None else "-",
            f"{usage:.0%}" if usage is not None else "-",
        ]
        table.add_row(*map(_cell, row), style="bold" if candidate.rank == 1 else "")
    return table


def _cell(content: str | Text) -> Text:
    """Wraps a string, which rich would otherwise parse as markup."""
    return content if isinstance(content, Text) else Text(content)


def _cost(cost: float | None) -> str:
    return "-" if cost is None else f"{cost:,.0f}" if cost >= 100 else f"{cost:.3f}"
