"""A running mock for recorded behaviours, and the changes of its metrics."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families

from vllm_mock.api.api_server import ApiServer
from vllm_mock.serve import build_api_server
from vllm_mock.settings import ServeSettings
from vllm_mock.tokens.approximate import ApproximateTokenizer
from vllm_mock.verify.exchanges import Json
from vllm_mock.verify.http import client_of

Values = dict[str, float]
_TIMEOUT_S = 30.0
GAUGES = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
"""Gauges, which the recordings contain even if they are 0."""


@dataclass(slots=True)
class RunningMock:
    """A server and a client."""

    client: httpx.AsyncClient
    api_server: ApiServer
    _before: Values = field(default_factory=dict[str, float])

    async def values(self) -> Values:
        """Values by name as in the recordings: summed over label sets, except for finish reasons."""
        page = (await self.client.get("/metrics")).text
        values: Values = {}
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                name = sample.name.removeprefix("vllm:")
                if name == "request_success_total":
                    name = f"{name}{{{sample.labels['finished_reason']}}}"
                values[name] = values.get(name, 0.0) + sample.value
        return values

    async def mark(self) -> None:
        """Makes the current values the base of `delta`."""
        self._before = await self.values()

    async def delta(self) -> Values:
        """The values of gauges, and the changes of other metrics since `mark`. Unchanged metrics are omitted."""
        now = await self.values()
        changes = {name: value - self._before.get(name, 0.0) for name, value in now.items()}
        return {name: value for name, value in changes.items() if value} | {name: now[name] for name in GAUGES}

    async def when(self, **least: float) -> Values:
        """Polls until the gauges equal `running` and `waiting` and at least `generated` tokens are generated.

        Returns the delta. Raises TimeoutError.
        """
        async with asyncio.timeout(_TIMEOUT_S):
            while True:
                delta = await self.delta()
                if (
                    least.get("running", delta["num_requests_running"]) == delta["num_requests_running"]
                    and least.get("waiting", delta["num_requests_waiting"]) == delta["num_requests_waiting"]
                    and least.get("generated", 0.0) <= delta.get("generation_tokens_total", 0.0)
                ):
                    return delta

    async def complete(self, **body: object) -> Json:
        """The response body of a completion."""
        response = await self.client.post("/v1/completions", json=body)
        return response.raise_for_status().json()


@contextlib.asynccontextmanager
async def running_mock(settings: ServeSettings) -> AsyncGenerator[RunningMock]:
    api_server = build_api_server(settings, ApproximateTokenizer())
    async with client_of(api_server) as client:
        mock = RunningMock(client, api_server)
        await mock.mark()
        yield mock


def prompt(tokens: int, first: int = 10) -> list[int]:
    """Token ids of a prompt. Prompts with different `first` share no prefix."""
    return [first, *range(10, 10 + tokens - 1)]


def delta_difference(recorded: Values, ours: Values, relative: bool = False, alone: bool = True) -> str | None:
    """The first difference between two deltas.

    The same families must have changed, and counters by the same amount. Times and metrics outside the recordings are
    not compared. With `relative`, the number of tokens until a disconnect is not compared either. If the request ran
    `alone`, the number of its steps without a token is.
    """
    selected = {name: value for name, value in ours.items() if name in _RECORDED or name in recorded}
    for name in sorted(recorded.keys() | selected.keys()):
        theirs, mine = recorded.get(name, 0.0), selected.get(name, 0.0)
        if name == "request_queue_time_seconds_sum":
            continue
        if name.endswith("_seconds_sum"):
            theirs, mine = float(theirs > 0), float(mine > 0)
        if relative and name in ("generation_tokens_total", "iteration_tokens_total_count", "kv_cache_usage_perc"):
            theirs, mine = float(theirs > 0), float(mine > 0)
        if abs(theirs - mine) > 1e-9:
            return f"{name} is {mine:g}, recorded {theirs:g}"
    if relative and alone:
        theirs, mine = _steps_without_tokens(recorded), _steps_without_tokens(ours)
        if theirs != mine:
            return f"{mine:g} more steps than tokens, recorded {theirs:g}"
    return None


def _steps_without_tokens(values: Values) -> float:
    """Steps without a token of a single sequence; 0 if there were several."""
    if values.get("time_to_first_token_seconds_count", 0) != 1:
        return 0.0
    return values.get("iteration_tokens_total_count", 0) - values.get("generation_tokens_total", 0)


_RECORDED = frozenset(
    {
        *GAUGES,
        "prompt_tokens_total",
        "generation_tokens_total",
        "prefix_cache_queries_total",
        "prefix_cache_hits_total",
        "num_preemptions_total",
        "e2e_request_latency_seconds_count",
        "request_queue_time_seconds_count",
        "time_to_first_token_seconds_count",
        "request_prompt_tokens_count",
        "request_generation_tokens_count",
        "request_generation_tokens_sum",
        "request_params_max_tokens_count",
        "request_params_n_count",
        "iteration_tokens_total_count",
        "request_prefill_time_seconds_count",
        "request_time_per_output_token_seconds_count",
        *(f"request_success_total{{{reason}}}" for reason in ("stop", "length", "abort", "error", "repetition")),
    }
)
"""Metrics that the recordings contain."""
