"""What is counted of requests. Filling costs an append; sorting into histograms is done for many requests at once."""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence

from picker.observability.histogram import Histogram
from picker.observability.model_labels import ModelLabels
from picker.observability.request_record import Course, RequestSink, TurnedAway
from picker.requestcontrol.rejection import Rejection
from picker.scheduling.request import Refused

SECONDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.5, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 45, 60, 120, 240, 480,
    900, 1800, 3600,
)  # fmt: skip
"""Of a whole answer, from an embedding's milliseconds to an hour of reasoning."""

FIRST_BYTE_SECONDS = (
    0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 4, 5, 7.5, 10, 20,
    40, 80, 160,
)  # fmt: skip
"""Close together where service levels for the first token are set."""

DECISION_SECONDS = (0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
TOKENS = tuple(float(1 << power) for power in (0, *range(3, 21)))
BYTES = tuple(float(1 << power) for power in range(6, 25))
RATIOS = tuple(tenths / 10 for tenths in range(11))

FOLDED = 256
"""Requests that are sorted into the histograms at once. That holds a pick up for some 0.15 ms."""

ERROR_CODES = {
    429: "InferencePoolResourceExhausted",
    500: "Internal",
    503: "ServiceUnavailable",
}
"""Upstream's names for errors of the picker; the others are clients' mistakes, BadRequest."""

SERVER_ERROR = "ModelServerError"
"""Upstream's name for whatever a model server answers with an error's status."""


SCHEDULER_REASONS = frozenset(Refused)
"""Reasons that a scheduler gives; the others come before it is asked."""


class RequestCounters:
    """The requests of one model of a pool, under one strategy and target."""

    def __init__(self, pool: str, strategy: str, model: str, target: str, book: "CounterRegistry") -> None:
        self.pool = pool
        self.strategy = strategy
        self.model = model
        self.target = target
        self.now = book.now
        self.picked = 0
        self.rerouted = 0
        self.refused = 0
        """Requests that were turned away."""
        self.errors: Counter[str] = Counter()
        """By upstream's code."""
        self.decision_seconds = Histogram(DECISION_SECONDS)
        self.prompt_tokens = Histogram(TOKENS)
        self.cached_tokens = 0
        self.hit_ratio = Histogram(RATIOS)
        self.body_bytes = Histogram(BYTES)
        self.seconds = Histogram(SECONDS)
        self.first_byte_seconds = Histogram(FIRST_BYTE_SECONDS)
        self._tellers = book.tellers
        self._ended = 0
        self._decisions: list[tuple[float, int, int, int]] = []
        """Seconds, prompt tokens, cached ones among them, and bytes of the body. Numbers rather than courses: those
        would live on, and grow what Python's garbage collector walks through."""
        self._seconds: list[float] = []
        self._first_byte_seconds: list[float] = []

    @property
    def running(self) -> int:
        return self.picked - self._ended

    @property
    def requests(self) -> int:
        return self.picked + self.refused

    def began(self, decision_s: float, prompt_tokens: int, cached_tokens: int, body_bytes: int) -> None:
        """An endpoint has been picked."""
        self.picked += 1
        decisions = self._decisions
        decisions.append((decision_s, prompt_tokens, cached_tokens, body_bytes))
        if len(decisions) >= FOLDED:
            self._fold_decisions()

    def ended(self, course: Course) -> None:
        """The request has left its endpoint now."""
        self._ended += 1
        course.ended_s = ended_s = self.now()
        seconds = self._seconds
        seconds.append(ended_s - course.begun_s)
        if course.first_byte_s is not None:
            self._first_byte_seconds.append(course.first_byte_s - course.begun_s)
            if course.status is not None and course.status >= 400:
                self.errors[SERVER_ERROR] += 1
        if course.other is not None:
            self.rerouted += 1
        if len(seconds) >= FOLDED:
            self._fold_ends()
        for teller in self._tellers:
            teller.ended(course)

    def turned_away(self, rejection: Rejection) -> None:
        self.refused += 1
        self.errors[ERROR_CODES.get(rejection.status, "BadRequest")] += 1

    def settle(self) -> None:
        """Bring the histograms up to date."""
        if self._decisions:
            self._fold_decisions()
        if self._seconds:
            self._fold_ends()

    def settled(self) -> "RequestCounters":
        self.settle()
        return self

    def absorb(self, other: "RequestCounters") -> None:
        """Count the requests of `other`, none of which runs, here too."""
        other.settle()
        self.picked += other.picked
        self._ended += other.picked
        self.refused += other.refused
        self.rerouted += other.rerouted
        self.cached_tokens += other.cached_tokens
        self.errors.update(other.errors)
        for mine, its in zip(self._histograms(), other._histograms(), strict=True):
            mine.merge(its)

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
        seconds, tokens, cached, body_bytes = zip(*self._decisions, strict=True)
        self._decisions.clear()
        self.decision_seconds.add(seconds)
        self.prompt_tokens.add(tokens)
        self.cached_tokens += sum(cached)
        self.hit_ratio.add([hit / prompt if hit else 0.0 for hit, prompt in zip(cached, tokens, strict=True)])
        self.body_bytes.add(body_bytes)

    def _fold_ends(self) -> None:
        self.seconds.add(self._seconds)
        self.first_byte_seconds.add(self._first_byte_seconds)
        self._seconds.clear()
        self._first_byte_seconds.clear()


class CounterRegistry:
    """All that a picker has counted since its start."""

    def __init__(self, now: Callable[[], float], tellers: Sequence[RequestSink]) -> None:
        """`now`: the clock of the courses."""
        self.now = now
        self.tellers = tellers
        self.refusals: Counter[tuple[str, str, str]] = Counter()
        """By pool, reason and criticality."""
        self.failed_decisions = 0
        """Schedulings that named no endpoint."""
        self._tallies: dict[tuple[str, str, str, str], RequestCounters] = {}
        self._labels = ModelLabels()

    def __iter__(self) -> Iterator[RequestCounters]:
        """All tallies, up to date."""
        for tally in self._tallies.values():
            tally.settle()
            yield tally

    def of(self, pool: str, strategy: str, model: str | None, target: str | None, *, declared: bool) -> RequestCounters:
        """Where requests to `model` of `pool` count that are served as `target`. `declared`: whether an object names
        the model."""
        key = pool, strategy, *self._labels.of(model or "", target or "", declared=declared)
        return self._tally(*key)

    def _tally(self, pool: str, strategy: str, model: str, target: str) -> RequestCounters:
        key = pool, strategy, model, target
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = RequestCounters(*key, self)
        return tally

    def unsettled(self) -> list[RequestCounters]:
        """All tallies; `settle` brings one up to date."""
        return list(self._tallies.values())

    def keep(self, pools: Container[str]) -> None:
        """Merge what was counted for pools that are not among `pools` into the tallies without a pool, by model, once
        none of their requests runs."""
        for key, tally in list(self._tallies.items()):
            if tally.pool and tally.pool not in pools and not tally.running:
                del self._tallies[key]
                self._tally("", "", tally.model, tally.target).absorb(tally)
        for key in [key for key in self.refusals if key[0] and key[0] not in pools]:
            del self.refusals[key]

    def turned_away(self, request: TurnedAway, tally: RequestCounters) -> None:
        """Count a request that no endpoint was picked for."""
        rejection = request.rejection
        tally.turned_away(rejection)
        self.refusals[request.pool, rejection.reason, request.criticality] += 1
        if rejection.reason in SCHEDULER_REASONS:
            self.failed_decisions += 1
        for teller in self.tellers:
            teller.turned_away(request)


def by_model(counters: Iterable[RequestCounters]) -> dict[tuple[str, str], list[RequestCounters]]:
    """`counters` by model and target, over all pools and strategies."""
    found: dict[tuple[str, str], list[RequestCounters]] = {}
    for tally in counters:
        found.setdefault((tally.model, tally.target), []).append(tally)
    return found


def by_pool(counters: Iterable[RequestCounters]) -> dict[str, list[RequestCounters]]:
    """`counters` by pool, over all models and strategies."""
    found: dict[str, list[RequestCounters]] = {}
    for tally in counters:
        found.setdefault(tally.pool, []).append(tally)
    return found
