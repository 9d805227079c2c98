"""Watches a desk: counts what it decides, keeps the newest decisions, and has it told when requests are over."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from picker.bounded_text import MAX_CHARACTERS, shorten
from picker.observability.request_counts import SCHEDULER_REASONS, CounterRegistry, RequestCounters
from picker.observability.request_record import Course, RequestSink, Seen, TurnedAway
from picker.requestcontrol.director import Assigned, PoolDesk, ServedPool
from picker.requestcontrol.interfaces import Wanted
from picker.requestcontrol.rejection import Rejection
from picker.requestcontrol.request_body import EMPTY_BODY
from picker.resources.names import PoolName

_Key = tuple[str | None, str | None, str | None]
"""The pool as the gateway names it, the model as the client does, and as the servers do where that is another name."""

MAX_MESSAGE_CHARACTERS = 1024
"""Of a rejection's message that is kept: a sentence and the names in it."""

MOST_SEEN = 200_000
"""Endpoints in all kept decisions together: 1,000 decisions over 200 of them, some 25 MB."""


class WatchedDesk:
    """The decisions of another desk; see `extproc.assignment.Desk`."""

    def __init__(
        self, desk: PoolDesk, clock: Callable[[], float], *, kept_decisions: int, tellers: Sequence[RequestSink] = ()
    ) -> None:
        """`clock`: monotonic, and finer than an event loop's, which stands still during a decision. `kept_decisions`:
        how many of the newest to keep."""
        self.counters = CounterRegistry(clock, tellers)
        self.decisions: deque[Course | TurnedAway] = deque(maxlen=kept_decisions)
        """The newest, last one last."""
        self._seen = 0
        """Endpoints that the kept decisions saw, all together."""
        self._desk = desk
        self._clock = clock
        self._known: dict[_Key, tuple[ServedPool, RequestCounters]] = {}
        """Which tally is whose, while the pool is served as it is."""

    def wants_response_headers(self, pool: str | None) -> bool:
        return self._desk.wants_response_headers(pool)

    def assign(self, wanted: Wanted) -> Course | Rejection:
        clock = self._clock
        begun_s = clock()
        assigned = self._desk.assign(wanted)
        decided_s = clock()
        if isinstance(assigned, Rejection):
            self._refused(wanted, assigned, begun_s, decided_s)
            return assigned
        body, dispatched = wanted.body, assigned.dispatched
        ranking, request = dispatched.ranking, dispatched.request
        served, tally = self._known.get((wanted.pool, body.model, assigned.served_model)) or _UNKNOWN
        if tally is None or served is not assigned.pool:
            tally = self._tally(wanted, assigned)
        tokens, cached = request.prompt_tokens, ranking.cached_tokens
        tally.began(decided_s - begun_s, tokens, cached, wanted.body_bytes)
        course = Course(
            assigned, assigned.destination, assigned.served_model, tally, _bounded(body.model), request.criticality,
            tokens, cached, request.output_tokens, wanted.body_bytes, _path(wanted.path), _bounded(wanted.request_id),
            _bounded(wanted.trace),
            ranking.endpoints[0], begun_s, decided_s,
        )  # fmt: skip
        if self.decisions.maxlen:
            course.seen = Seen.of(ranking.considered, ranking.cached, ranking.costs)
            self._keep(course, len(ranking.considered))
        return course

    def turned_away(self, wanted: Wanted, rejection: Rejection) -> None:
        now_s = self._clock()
        self._desk.turned_away(wanted, rejection)
        self._refused(wanted, rejection, now_s, now_s)

    def forget(self) -> None:
        """Let go of pools that the desk serves no more, or no more as they were. What was counted stays."""
        self._known = {key: known for key, known in self._known.items() if self._desk.served(key[0]) is known[0]}

    def _refused(self, wanted: Wanted, rejection: Rejection, begun_s: float, decided_s: float) -> None:
        served, body = self._desk.served(wanted.pool), wanted.body
        if len(rejection.message) > MAX_MESSAGE_CHARACTERS:
            rejection = replace(rejection, message=shorten(rejection.message, MAX_MESSAGE_CHARACTERS))
        request = TurnedAway(
            rejection, "", "", "", _bounded(body.model), body.prompt_tokens, wanted.body_bytes, _path(wanted.path),
            _bounded(wanted.request_id), _bounded(wanted.trace), begun_s, decided_s,
        )  # fmt: skip
        if served is not None:
            if body is not EMPTY_BODY or rejection.reason in SCHEDULER_REASONS:
                request.criticality = served.criticality(body.model, wanted.objective)
            if self.decisions.maxlen and rejection.reason in SCHEDULER_REASONS:
                request.seen = Seen.of(served.endpoints)
        self._tell(served, request)

    def _tell(self, served: ServedPool | None, request: TurnedAway) -> None:
        model = request.model
        if served is not None:
            request.pool, request.strategy = pool_label(served.pool.name), served.scheduler.strategy.value
        declared = served is not None and _declared(served, model)
        tally = self.counters.of(request.pool, request.strategy, model, model, declared=declared)
        self.counters.turned_away(request, tally)
        if self.decisions.maxlen:
            self._keep(request, len(request.seen.endpoints) if request.seen is not None else 0)

    def _keep(self, decision: Course | TurnedAway, seen: int) -> None:
        """Keep a decision that saw `seen` endpoints, and discard the oldest ones where all together saw too many."""
        decisions = self.decisions
        if len(decisions) == decisions.maxlen:
            self._discard_oldest()
        decisions.append(decision)
        self._seen += seen
        while self._seen > MOST_SEEN and len(decisions) > 1:
            self._discard_oldest()

    def _discard_oldest(self) -> None:
        seen = self.decisions.popleft().seen
        if seen is not None:
            self._seen -= len(seen.endpoints)

    def _tally(self, wanted: Wanted, assigned: Assigned) -> RequestCounters:
        served, model, served_model = assigned.pool, wanted.body.model, assigned.served_model
        label, strategy = pool_label(served.pool.name), served.scheduler.strategy.value
        tally = self.counters.of(label, strategy, model, served_model or model, declared=_declared(served, model))
        if tally.model == (model or ""):
            # Those that are counted as others would be too many to know.
            self._known[wanted.pool, model, served_model] = served, tally
        return tally


_UNKNOWN = (None, None)


def _bounded(text: str | None) -> str | None:
    # Before `shorten`, whose call costs more than the look.
    return text if text is None or len(text) <= MAX_CHARACTERS else shorten(text)


def _path(path: str) -> str:
    """Without its query, where clients of other APIs write their keys."""
    return shorten(path.partition("?")[0])


def _declared(served: ServedPool, model: str | None) -> bool:
    return model is not None and served.targets(model) is not None


def pool_label(name: PoolName) -> str:
    """How metrics, logs and people call a pool: NAMESPACE/NAME."""
    return f"{name.namespace}/{name.name}"
