"""Counters and histograms of requests. Recording a request is an append. Histograms are filled with many at once."""

from collections import Counter
from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple

from picker.observability.histogram import Histogram
from picker.observability.model_labels import ModelLabels
from picker.observability.priority_labels import PriorityLabels, criticality_name
from picker.observability.slo_outcome import SloOutcome, ttft_outcome
from picker.rejection import SCHEDULING_REASONS, Rejection
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.request_observer import RejectedRequest

SECONDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.5, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 45, 60, 120, 240, 480,
    900, 1800, 3600,
)  # fmt: skip
"""Buckets of a whole response, from an embedding's milliseconds to an hour of reasoning."""

FIRST_BYTE_SECONDS = (
    0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 4, 5, 7.5, 10, 20,
    40, 80, 160,
)  # fmt: skip
"""Buckets are dense where service level objectives for the first token usually are."""

DECISION_SECONDS = (0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
TOKENS = tuple(float(1 << power) for power in (0, *range(3, 21)))
BYTES = tuple(float(1 << power) for power in range(6, 25))
RATIOS = tuple(tenths / 10 for tenths in range(11))

FOLDED = 256
"""Requests that are added to the histograms at once. Measured: this delays one pick by some 0.15 ms."""


class ErrorCode(NamedTuple):
    """An error in the words of two endpoint pickers."""

    gaie: str
    llm_d: str


ERROR_CODES = {
    404: ErrorCode("BadRequest", "NotFound"),
    429: ErrorCode("InferencePoolResourceExhausted", "ResourceExhausted"),
    500: ErrorCode("Internal", "Internal"),
    503: ErrorCode("ServiceUnavailable", "ServiceUnavailable"),
}
"""By the status of a rejection. All other statuses are BAD_REQUEST."""

BAD_REQUEST = ErrorCode("BadRequest", "BadRequest")

SERVER_ERROR = ErrorCode("ModelServerError", "ModelServerError")
"""A model server's response with an error status."""


class RequestCounters:
    """Counts the requests of one pool, strategy, model and target model."""

    def __init__(self, pool: str, strategy: str, model: str, target: str, priorities: PriorityLabels) -> None:
        self.pool = pool
        self.strategy = strategy
        self.model = model
        self.target = target
        self.picked = 0
        self.rerouted = 0
        self.rejections = 0
        self.errors: Counter[tuple[ErrorCode, str]] = Counter()
        """By code and label of the priority."""
        self.by_priority: Counter[str] = Counter()
        """Requests, rejected ones included, by label of their priority."""
        self.ended_by_priority: Counter[str] = Counter()
        """Requests that have no endpoint any more, rejected ones included."""
        self.ttft_slos: Counter[SloOutcome] = Counter()
        """Requests that asked for a time to the first token, by outcome."""
        self.decision_seconds = Histogram(DECISION_SECONDS)
        self.prompt_tokens = Histogram(TOKENS)
        self.cached_tokens = 0
        self.hit_ratio = Histogram(RATIOS)
        self.body_bytes = Histogram(BYTES)
        self.seconds = Histogram(SECONDS)
        self.first_byte_seconds = Histogram(FIRST_BYTE_SECONDS)
        self._ended = 0
        self._priorities = priorities
        self._decisions: list[tuple[float, int, int, int, int]] = []
        """Seconds, prompt tokens, cached tokens, bytes of the body, and priority. They are numbers and not requests:
        requests would stay alive, and Python's garbage collector would visit them."""
        self._ended_priorities: list[int] = []
        self._seconds: list[float] = []
        self._first_byte_seconds: list[float] = []

    @property
    def running(self) -> int:
        return self.picked - self._ended

    @property
    def requests(self) -> int:
        return self.picked + self.rejections

    def scheduled(self, request: InFlightRequest) -> None:
        """Counts a scheduled request."""
        self.picked += 1
        decisions = self._decisions
        decision_s = request.decided_s - request.begun_s
        tokens, cached = request.request.prompt_tokens, request.ranking.cached_tokens
        decisions.append((decision_s, tokens, cached, request.info.body_bytes, request.request.priority))
        if len(decisions) >= FOLDED:
            self._fold_decisions()

    def ended(self, request: InFlightRequest) -> None:
        """Counts the end of a scheduled request."""
        self._ended += 1
        asked = request.request
        self._ended_priorities.append(asked.priority)
        seconds = self._seconds
        if request.ended_s is not None:
            seconds.append(request.ended_s - request.begun_s)
        if request.response_s is not None:
            self._first_byte_seconds.append(request.response_s - request.begun_s)
            if request.status is not None and request.status >= 400:
                self.errors[SERVER_ERROR, self._priorities.of(asked.priority)] += 1
        if request.rerouted:
            self.rerouted += 1
        if asked.slo is not None and asked.slo.ttft_s is not None:
            self.ttft_slos[ttft_outcome(request, asked.slo.ttft_s)] += 1
        if len(seconds) >= FOLDED:
            self._fold_ends()

    def rejected(self, rejection: Rejection, priority: str) -> None:
        """Counts a rejection. `priority`: the label."""
        self.rejections += 1
        self.by_priority[priority] += 1
        self.ended_by_priority[priority] += 1
        self.errors[ERROR_CODES.get(rejection.status, BAD_REQUEST), priority] += 1

    def settle(self) -> None:
        """Adds all recorded requests to the histograms."""
        if self._decisions:
            self._fold_decisions()
        if self._seconds:
            self._fold_ends()

    def settled(self) -> "RequestCounters":
        self.settle()
        return self

    def absorb(self, other: "RequestCounters") -> None:
        """Adds the counts of `other`, all of whose requests must have ended."""
        other.settle()
        self.picked += other.picked
        self._ended += other.picked
        self.rejections += other.rejections
        self.rerouted += other.rerouted
        self.cached_tokens += other.cached_tokens
        self.errors.update(other.errors)
        self.by_priority.update(other.by_priority)
        self.ended_by_priority.update(other.ended_by_priority)
        self.ttft_slos.update(other.ttft_slos)
        for histogram, added in zip(self._histograms(), other._histograms(), strict=True):
            histogram.merge(added)

    def _histograms(self) -> tuple[Histogram, ...]:
        return (
            self.decision_seconds,
            self.prompt_tokens,
            self.hit_ratio,
            self.body_bytes,
            self.seconds,
            self.first_byte_seconds,
        )

    def _fold_decisions(self) -> None:
        seconds, tokens, cached, body_bytes, priorities = zip(*self._decisions, strict=True)
        self._decisions.clear()
        self.decision_seconds.add(seconds)
        self.prompt_tokens.add(tokens)
        self.cached_tokens += sum(cached)
        self.hit_ratio.add([hit / prompt if hit else 0.0 for hit, prompt in zip(cached, tokens, strict=True)])
        self.body_bytes.add(body_bytes)
        self._count_priorities(self.by_priority, priorities)

    def _fold_ends(self) -> None:
        self.seconds.add(self._seconds)
        self.first_byte_seconds.add(self._first_byte_seconds)
        self._count_priorities(self.ended_by_priority, self._ended_priorities)
        self._seconds.clear()
        self._first_byte_seconds.clear()
        self._ended_priorities.clear()

    def _count_priorities(self, counts: Counter[str], priorities: Iterable[int]) -> None:
        # Many requests have few priorities.
        for priority, count in Counter(priorities).items():
            counts[self._priorities.of(priority)] += count


class CounterRegistry:
    """All counters of a picker since its start."""

    def __init__(self) -> None:
        self.priorities = PriorityLabels()
        self.rejections: Counter[tuple[str, str, str, str]] = Counter()
        """By pool, reason, criticality and label of the priority."""
        self.failed_decisions = 0
        """Requests that were rejected after the endpoints were considered."""
        self._counters: dict[tuple[str, str, str, str], RequestCounters] = {}
        self._labels = ModelLabels()

    def __iter__(self) -> Iterator[RequestCounters]:
        """Iterates over all counters, settled."""
        for counters in self._counters.values():
            counters.settle()
            yield counters

    def of(self, pool: str, strategy: str, model: str | None, target: str | None, *, declared: bool) -> RequestCounters:
        """Returns the counters of requests to `model` of `pool` that are served as `target`. `declared`: whether an
        object names the model."""
        return self._of(pool, strategy, *self._labels.of(model or "", target or "", declared=declared))

    def _of(self, pool: str, strategy: str, model: str, target: str) -> RequestCounters:
        key = pool, strategy, model, target
        counters = self._counters.get(key)
        if counters is None:
            counters = self._counters[key] = RequestCounters(*key, self.priorities)
        return counters

    def unsettled(self) -> list[RequestCounters]:
        """Returns all counters. Call `settle` before reading the histograms of one."""
        return list(self._counters.values())

    def keep(self, pools: Container[str]) -> None:
        """Removes pools that are not in `pools`. Once all their requests have ended, their counters are added to those
        without a pool, by model."""
        for key, counters in list(self._counters.items()):
            if counters.pool and counters.pool not in pools and not counters.running:
                del self._counters[key]
                self._of("", "", counters.model, counters.target).absorb(counters)
        for key in [key for key in self.rejections if key[0] and key[0] not in pools]:
            del self.rejections[key]

    def rejected(self, request: RejectedRequest, counters: RequestCounters) -> None:
        """Counts a rejected request."""
        rejection, priority = request.rejection, self.priorities.of(request.priority)
        counters.rejected(rejection, priority)
        self.rejections[request.pool, rejection.reason, criticality_name(request.priority), priority] += 1
        if rejection.reason in SCHEDULING_REASONS:
            self.failed_decisions += 1


def by_model(counters: Iterable[RequestCounters]) -> dict[tuple[str, str], list[RequestCounters]]:
    """Groups `counters` by model and target, over all pools and strategies."""
    found: dict[tuple[str, str], list[RequestCounters]] = {}
    for entry in counters:
        found.setdefault((entry.model, entry.target), []).append(entry)
    return found


def by_pool(counters: Iterable[RequestCounters]) -> dict[str, list[RequestCounters]]:
    """Groups `counters` by pool, over all models and strategies."""
    found: dict[str, list[RequestCounters]] = {}
    for entry in counters:
        found.setdefault(entry.pool, []).append(entry)
    return found
