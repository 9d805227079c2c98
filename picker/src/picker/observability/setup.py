"""Sets up the observers of a picker."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from starlette.routing import Route

from picker.cli_error import CliError
from picker.observability.access_log import AccessLog
from picker.observability.admin_pages import pages
from picker.observability.decision_log import DecisionLog
from picker.observability.metrics import PickerMetrics
from picker.observability.pool_states import pool_states
from picker.observability.recent_decisions import RecentDecisions
from picker.observability.request_metrics import RequestMetrics
from picker.requestcontrol.request_observer import RequestObserver
from picker.requestcontrol.served_pool import ServedPool
from picker.settings import CommonSettings

if TYPE_CHECKING:
    from picker.observability.traces import Traces


class ExtraMissing(CliError):
    """A setting needs a package that is not installed."""


class Observability:
    """The observers of one picker, its metrics, and its pages on the admin address."""

    def __init__(
        self,
        settings: CommonSettings,
        pools: Callable[[], Iterable[ServedPool]],
        scrape_clock: Callable[[], float],
        refused_changes: Callable[[], int],
    ) -> None:
        """`pools`: the pools that are served now. `refused_changes`: how many changes the source has refused. Raises
        ExtraMissing, LogUnusable."""
        self.timer = time.perf_counter
        """The director's timer, finer than an event loop's clock."""
        self._access_log = AccessLog(settings.access_log) if settings.access_log is not None else None
        self._traces = _traces(settings)
        self._requests = RequestMetrics()
        self.decisions = RecentDecisions(settings.kept_decisions)
        self.metrics = PickerMetrics(
            self._requests.counters, pools, scrape_clock, refused_changes, legacy=settings.legacy_names
        )
        self._pools = pools
        self._scrape_clock = scrape_clock

    @property
    def observers(self) -> Sequence[RequestObserver]:
        """The observers of the director."""
        decisions = self.decisions if self.decisions.most else None
        observers = (self._requests, decisions, DecisionLog(), self._access_log, self._traces)
        return [observer for observer in observers if observer is not None]

    def register(self, registry: CollectorRegistry) -> None:
        """Adds the picker's metrics to `registry`."""
        registry.register(self.metrics)

    def pages(self) -> list[Route]:
        """Returns the routes of `/pools` and `/decisions`."""
        return pages(
            lambda: pool_states(self._pools(), self._requests.counters, self._scrape_clock()),
            lambda: self.decisions,
            self.timer,
        )

    def pools_changed(self) -> None:
        """Removes the counters of pools that are no longer served. Called after each inventory."""
        self.metrics.applied_changes += 1
        self._requests.keep(self._pools())

    async def close(self) -> None:
        """Writes the lines of the access log and exports the spans that wait."""
        if self._access_log is not None:
            await self._access_log.close()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)


def _traces(settings: CommonSettings) -> "Traces | None":
    if settings.traces_endpoint is None:
        return None
    try:
        # Imported on demand, because the import takes longer than that of the rest of the picker.
        from picker.observability.traces import Traces
    except ImportError as error:
        needed = (
            "the packages of picker[traces], with opentelemetry-proto last, because xds-protos overwrites its files"
        )
        raise ExtraMissing(f"traces-endpoint needs {needed}: {error}") from None
    return Traces.to(settings.traces_endpoint, version("picker"), settings.traces_sample_ratio)
