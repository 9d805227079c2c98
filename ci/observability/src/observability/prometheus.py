"""Reads series from a Prometheus by its HTTP API."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from observability.metric_names import with_all_selected

MIN_SCRAPES = 4
"""Scrapes in a window of `rate`, as in Grafana: the rate exists even if a scrape fails."""
DEFAULT_SCRAPE_INTERVAL_S = 15.0
_DURATION_PART = re.compile(r"(\d+)(ms|s|m|h|d|w|y)")
_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}


class PrometheusError(Exception):
    """Prometheus cannot be reached, or its response is not the expected one. The message is shown to the user."""


@dataclass(frozen=True, slots=True)
class Span:
    """A time span and the step between points. Times are Unix seconds."""

    start_s: float
    end_s: float
    step_s: float


@dataclass(frozen=True, slots=True)
class Series:
    labels: Mapping[str, str]
    times_s: Sequence[float]
    values: Sequence[float]
    """Values at `times_s`; NaN if undefined, as 0 / 0."""


class _Matrix(msgspec.Struct):
    metric: dict[str, str]
    values: list[tuple[float, str]]


class _RangeData(msgspec.Struct):
    result: list[_Matrix]


class _RangeAnswer(msgspec.Struct):
    data: _RangeData


class Prometheus:
    """A client of a Prometheus server. Use it with `async with`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._client = httpx.AsyncClient(timeout=30.0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def over(self, expression: str, span: Span, rate_window_s: float) -> list[Series]:
        """The series of a panel's query over a span, with every variable set to all. Raises PrometheusError."""
        text = await self._get(
            "query_range",
            query=with_all_selected(expression, f"{rate_window_s:.0f}s"),
            start=f"{span.start_s:.3f}",
            end=f"{span.end_s:.3f}",
            step=f"{span.step_s:g}",
        )
        try:
            answer = msgspec.json.decode(text, type=_RangeAnswer)
        except msgspec.DecodeError as error:
            raise PrometheusError(f"{self.url}: unexpected response to query_range: {error}") from None
        return [
            Series(matrix.metric, [at for at, _ in matrix.values], [float(value) for _, value in matrix.values])
            for matrix in answer.data.result
        ]

    async def scrape_interval_s(self) -> float:
        """The longest scrape interval of the configuration, or the default. Raises PrometheusError."""
        text = await self._get("status/config")
        config: Any = msgspec.json.decode(text)
        found = re.findall(r"scrape_interval: (\S+)", str(config.get("data", {}).get("yaml", "")))
        return max(map(seconds, found), default=DEFAULT_SCRAPE_INTERVAL_S)

    async def _get(self, path: str, **parameters: str) -> bytes:
        url = f"{self.url}/api/v1/{path}"
        try:
            answer = await self._client.get(url, params=parameters)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PrometheusError(f"{self.url} cannot be reached: {error or type(error).__name__}") from None
        if answer.status_code != 200:
            raise PrometheusError(f"{url} returned status {answer.status_code}: {answer.text[:300]}")
        return answer.content


def seconds(duration: str) -> float:
    """The seconds of a Prometheus duration, such as 1m30s."""
    return sum(int(count) * _UNITS_S[unit] for count, unit in _DURATION_PART.findall(duration))
