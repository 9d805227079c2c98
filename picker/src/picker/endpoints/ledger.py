"""What this picker has in flight, counted in the same step as the pick: no scrape is as fresh."""

from collections.abc import Callable

from picker.endpoints.endpoint import Endpoint, InFlight

FAILURE_WEIGHT = 0.1
"""Of one answer in an endpoint's share of failures: the last ten or so count."""


class Ticket:
    """One request in flight, from the pick to the end of its stream. Each of its steps may come any number of times, in
    any order, and counts once; nothing counts after the end. The endpoint may have left its pool meanwhile."""

    __slots__ = ("_begun_s", "_decode_tokens", "_endpoint", "_ledger", "_model", "_prefill_tokens", "_work_tokens")

    def __init__(
        self,
        ledger: "Ledger",
        endpoint: Endpoint,
        prefill_tokens: int,
        decode_tokens: int,
        work_tokens: float,
        begun_s: float,
        model: str | None,
    ) -> None:
        self._ledger: Ledger | None = ledger
        self._endpoint = endpoint
        self._prefill_tokens = prefill_tokens
        self._decode_tokens = decode_tokens
        self._work_tokens = work_tokens
        self._begun_s = begun_s
        self._model = model
        _count_model(endpoint.in_flight, model, 1)

    @property
    def endpoint(self) -> Endpoint:
        """Where the request is counted."""
        return self._endpoint

    def moved_to(self, endpoint: Endpoint) -> None:
        """Another endpoint serves the request: the proxy fell back. What is still counted is counted there."""
        if self._ledger is None or endpoint is self._endpoint:
            return
        _add(self._endpoint.in_flight, -1, -self._prefill_tokens, -self._decode_tokens)
        _add(endpoint.in_flight, 1, self._prefill_tokens, self._decode_tokens)
        _count_model(self._endpoint.in_flight, self._model, -1)
        _count_model(endpoint.in_flight, self._model, 1)
        self._endpoint = endpoint
        # What the other endpoint had ahead of it is not known.
        self._work_tokens = 0.0

    def answered(self, failed: bool) -> None:
        """The answer's headers are there; `failed`: it is an error of the server's. When the prompt was computed they
        do not say."""
        if self._ledger is not None:
            self._endpoint.failing += FAILURE_WEIGHT * (failed - self._endpoint.failing)

    def first_byte(self, now_s: float, failed: bool = False) -> None:
        """The answer has begun: the prompt is computed, and its prefill weighs on the endpoint no more. The endpoint's
        pace is learned from the time it took, unless it is an error (`failed`): those come fast."""
        if self._ledger is None:
            return
        endpoint = self._endpoint
        endpoint.failing += FAILURE_WEIGHT * (failed - endpoint.failing)
        if failed:
            self._work_tokens = 0.0
        if self._work_tokens:
            self._endpoint.pace.learn(self._work_tokens, now_s - self._begun_s, now_s)
            self._work_tokens = 0.0
        if not self._prefill_tokens:
            return
        _add(self._endpoint.in_flight, 0, -self._prefill_tokens, 0)
        _add(self._ledger.total, 0, -self._prefill_tokens, 0)
        self._prefill_tokens = 0
        if self._ledger.on_freed is not None:
            self._ledger.on_freed()

    def end(self, now_s: float) -> None:
        """The stream has ended, by the answer's end or the client's leaving."""
        ledger = self._ledger
        if ledger is None:
            return
        self._ledger = None
        _add(self._endpoint.in_flight, -1, -self._prefill_tokens, -self._decode_tokens)
        _add(ledger.total, -1, -self._prefill_tokens, -self._decode_tokens)
        _count_model(self._endpoint.in_flight, self._model, -1)
        self._endpoint.drain.ended(now_s, self._endpoint.in_flight.requests)
        if ledger.on_freed is not None:
            ledger.on_freed()


class Ledger:
    """All requests in flight through this picker. Its counts are sums over the open tickets, so they are never negative
    and are 0 when the last ticket has ended."""

    __slots__ = ("on_freed", "total")

    def __init__(self) -> None:
        self.total = InFlight()
        """Over all endpoints, those that have left their pools included."""
        self.on_freed: Callable[[], None] | None = None
        """Called when a prompt is computed, and when a request has left its endpoint."""

    def begin(
        self,
        endpoint: Endpoint,
        prefill_tokens: int,
        decode_tokens: int,
        work_tokens: float = 0.0,
        now_s: float = 0.0,
        model: str | None = None,
    ) -> Ticket:
        """Count a request on `endpoint` from now on. `work_tokens` of work are ahead of its first byte there, its own
        prompt included; 0 where that is not known. Raises ValueError on negative tokens."""
        if prefill_tokens < 0 or decode_tokens < 0:
            raise ValueError(f"{prefill_tokens} prefill and {decode_tokens} decode tokens: neither may be negative")
        _add(endpoint.in_flight, 1, prefill_tokens, decode_tokens)
        _add(self.total, 1, prefill_tokens, decode_tokens)
        return Ticket(self, endpoint, prefill_tokens, decode_tokens, work_tokens, now_s, model)


def _add(counts: InFlight, requests: int, prefill_tokens: int, decode_tokens: int) -> None:
    counts.requests += requests
    counts.prefill_tokens += prefill_tokens
    counts.decode_tokens += decode_tokens


def _count_model(counts: InFlight, model: str | None, change: int) -> None:
    if model is None:
        return
    count = counts.models.get(model, 0) + change
    if count:
        counts.models[model] = count
    else:
        del counts.models[model]
