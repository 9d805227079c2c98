"""The metrics of the picker's `/metrics`."""

from collections import Counter
from collections.abc import Callable, Iterable
from importlib.metadata import version

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.metrics.connection import ScrapeFailure
from picker.observability.gauges import gauge_families
from picker.observability.llm_d_families import llm_d_request_families
from picker.observability.prometheus_families import counter, gauge, model_families, picker_families, pool_families
from picker.observability.request_counts import CounterRegistry
from picker.requestcontrol.served_pool import ServedPool


class PickerMetrics(Collector):
    """Collects all metrics of the picker at each scrape."""

    def __init__(
        self,
        counters: CounterRegistry,
        pools: Callable[[], Iterable[ServedPool]],
        clock: Callable[[], float],
        refused_changes: Callable[[], int],
        *,
        legacy: bool = True,
    ) -> None:
        """`pools`: the pools that are served now. `clock`: of the scrapes of model servers. `refused_changes`: how many
        changes the source has refused. `legacy`: whether GAIE's names are reported, too."""
        self._counters = counters
        self._pools = pools
        self._clock = clock
        self._scrapes: Counter[str] = Counter(ok=0)
        self._refused_changes = refused_changes
        self._legacy = legacy
        self.applied_changes = 0
        """Inventories that were applied."""

    def scraped(self, _endpoint: Endpoint, failure: ScrapeFailure | None) -> None:
        """Counts a scrape of a model server. The scraper calls it."""
        self._scrapes["ok" if failure is None else failure.value] += 1

    def describe(self) -> Iterable[Metric]:
        """Empty, because the samples depend on the pools."""
        return ()

    def collect(self) -> Iterable[Metric]:
        pools = list(self._pools())
        labels = {pool.label for pool in pools}
        self._counters.keep(labels)
        counters = self._counters.unsettled()
        yield from llm_d_request_families(counters)
        if self._legacy:
            yield from model_families(counters)
        yield from picker_families(counters, self._counters.failed_decisions, legacy=self._legacy)
        yield from pool_families([entry for entry in counters if entry.pool in labels])
        yield counter(
            "inference_gateway_rejections_total",
            "Requests that the picker rejected, by reason.",
            ("pool", "reason", "criticality", "priority"),
            list(self._counters.rejections.items()),
        )
        yield from gauge_families(pools, self._clock(), legacy=self._legacy)
        yield counter(
            "inference_gateway_scrapes_total",
            "Scrapes of model servers.",
            ("result",),
            [((result,), count) for result, count in self._scrapes.items()],
        )
        yield counter(
            "inference_gateway_config_changes_total",
            "Changes of manifests, objects and model servers.",
            ("result",),
            [(("applied",), self.applied_changes), (("refused",), self._refused_changes())],
        )
        for prefix in ("llm_d_epp", "inference_extension")[: 1 + self._legacy]:
            yield gauge(
                f"{prefix}_info",
                "1, with the version of the picker.",
                ("commit", "build_ref"),
                [(("", version("picker")), 1)],
            )
