"""What this picker has in flight, counted in the same step as the pick: no scrape is as fresh.

When a prompt is computed, its server's pace lets expect beforehand and a scrape tells afterwards."""

from collections.abc import Callable, Sequence
from heapq import heappop, heappush

from picker.endpoints.endpoint import Endpoint, InFlight, ServerMetrics
from picker.endpoints.load.prefill_tracker import PrefillCounters, Prompt


class Ticket:
    """One request in flight, from the pick to the end of its stream. Each of its steps may come any number of times, in
    any order, and counts once; nothing counts after the end. The endpoint may have left its pool meanwhile."""

    __slots__ = ("_answered", "_decode_tokens", "_endpoint", "_model", "_prompt", "_tracker")

    def __init__(
        self, tracker: "InFlightTracker", endpoint: Endpoint, prompt: Prompt, decode_tokens: int, model: str | None
    ) -> None:
        self._tracker: InFlightTracker | None = tracker
        self._endpoint = endpoint
        self._prompt = prompt
        self._decode_tokens = decode_tokens
        self._model = model
        self._answered = False
        _count_model(endpoint.in_flight, model, prompt.sequences)

    @property
    def endpoint(self) -> Endpoint:
        """Where the request is counted."""
        return self._endpoint

    def moved_to(self, endpoint: Endpoint) -> None:
        """Another endpoint serves the request: the proxy fell back. What is still counted is counted there. That the
        endpoints before it failed is the caller's to count."""
        before, prompt = self._endpoint, self._prompt
        if self._tracker is None or endpoint is before:
            return
        sequences = prompt.sequences
        _add(before.in_flight, -sequences, -prompt.tokens, -self._decode_tokens)
        _add(endpoint.in_flight, sequences, prompt.tokens, self._decode_tokens)
        if self._decode_tokens:
            before.credibility.generating -= 1
            endpoint.credibility.generating += 1
            endpoint.credibility.begun += 1
        _count_model(before.in_flight, self._model, -sequences)
        _count_model(endpoint.in_flight, self._model, sequences)
        # What the other endpoint had ahead of it is not known.
        prompt.work_tokens = 0.0
        if before.prefills.moved(prompt):
            endpoint.prefills.sent(prompt)
        self._endpoint = endpoint

    def answered(self, failed: bool) -> None:
        """The answer's headers are there; `failed`: it is an error of the server's. When the prompt was computed they
        do not say."""
        if self._tracker is not None:
            self._endpoint.answer_counted(failed=failed)
            self._answered = not failed

    def computed(self) -> None:
        """Its prompt is, by all that is known: its prefill weighs on the endpoint no more."""
        if self._tracker is not None:
            self._tracker.released(self._endpoint, [self._prompt])

    def end(self, now_s: float) -> None:
        """The stream has ended, by the answer's end or the client's leaving."""
        tracker = self._tracker
        if tracker is None:
            return
        self._tracker = None
        endpoint, prompt = self._endpoint, self._prompt
        endpoint.prefills.ended(prompt, self._answered)
        if self._decode_tokens:
            endpoint.credibility.generating -= 1
            endpoint.credibility.ended += self._answered
        sequences = prompt.sequences
        _add(endpoint.in_flight, -sequences, -prompt.tokens, -self._decode_tokens)
        _add(tracker.total, -sequences, -prompt.tokens, -self._decode_tokens)
        _count_model(endpoint.in_flight, self._model, -sequences)
        endpoint.drain.ended(now_s, endpoint.in_flight.requests, sequences)
        if tracker.on_freed is not None:
            tracker.on_freed()


class InFlightTracker:
    """All requests in flight through this picker. Its counts are sums over the open tickets, so they are never negative
    and are 0 when the last ticket has ended."""

    __slots__ = ("_begun", "_expected", "on_freed", "on_restarted", "total")

    def __init__(self) -> None:
        self.total = InFlight()
        """Over all endpoints, those that have left their pools included."""
        self.on_freed: Callable[[], None] | None = None
        """Called when a scrape shows prompts to be computed, and when a request has left its endpoint."""
        self.on_restarted: Callable[[Endpoint], None] | None = None
        """Called when a scrape shows that a server has started anew: what it had cached is gone."""
        self._begun = 0
        self._expected: list[tuple[float, int, Ticket]] = []
        """A heap: when prompts will be computed; the number keeps entries of the same time comparable."""

    def begin(
        self,
        endpoint: Endpoint,
        prefill_tokens: int,
        decode_tokens: int,
        work_tokens: float = 0.0,
        now_s: float = 0.0,
        model: str | None = None,
        sequences: int = 1,
    ) -> Ticket:
        """Count a request on `endpoint` from now on, as the server does: as so many `sequences`. `decode_tokens` are of
        all of them. `work_tokens` of work are ahead of its first token there, its own prompt included; 0 where that is
        not known. Raises ValueError on negative tokens."""
        if prefill_tokens < 0 or decode_tokens < 0:
            raise ValueError(f"{prefill_tokens} prefill and {decode_tokens} decode tokens: neither may be negative")
        _add(endpoint.in_flight, sequences, prefill_tokens, decode_tokens)
        _add(self.total, sequences, prefill_tokens, decode_tokens)
        prompt = Prompt(prefill_tokens, work_tokens, now_s, sequences)
        ticket = Ticket(self, endpoint, prompt, decode_tokens, model)
        if decode_tokens:
            # What generates nothing has no first token to be counted.
            endpoint.prefills.sent(prompt)
            endpoint.credibility.generating += 1
            endpoint.credibility.begun += 1
        pace = endpoint.pace.seconds_per_token
        if pace is not None and work_tokens:
            self._begun += 1
            heappush(self._expected, (now_s + pace * work_tokens, self._begun, ticket))
        return ticket

    def expect(self, now_s: float) -> None:
        """Take for computed what should be by now. Between two scrapes a server computes several prompts: who counts
        them on sees more load on all of them than there is, and the differences between them less well."""
        expected = self._expected
        while expected and expected[0][0] <= now_s:
            heappop(expected)[2].computed()

    def scraped(self, endpoint: Endpoint, metrics: ServerMetrics) -> None:
        """`endpoint` has new metrics. Prompts that they show to be computed weigh on it no more, and its pace is
        learned from the time that they took."""
        metrics = endpoint.credibility.scraped(endpoint, metrics)
        before, endpoint.metrics = endpoint.metrics, metrics
        endpoint.fade_failures(metrics.scraped_at_s)
        progress = metrics.progress
        if progress is None:
            endpoint.foreign_prefill_tokens = 0
            return
        if before is not None and before.progress is not None:
            did = progress.since(before.progress)
            if did is None:
                endpoint.prefills.restarted()
                if self.on_restarted is not None:
                    self.on_restarted(endpoint)
            else:
                alone = not before.foreign_requests and not metrics.foreign_requests
                done = endpoint.prefills.computed(did, before.scraped_at_s, metrics.scraped_at_s, alone)
                if done:
                    if not before.queues and not metrics.queues:
                        _learn(endpoint, done, did, metrics.scraped_at_s)
                    self.released(endpoint, done)
                    if self.on_freed is not None:
                        self.on_freed()
        endpoint.foreign_prefill_tokens = _others_tokens(endpoint, progress, metrics)

    def released(self, endpoint: Endpoint, prompts: Sequence[Prompt]) -> None:
        """They are computed: they weigh on `endpoint` no more."""
        tokens = 0
        for prompt in prompts:
            tokens += prompt.tokens
            prompt.tokens = 0
        _add(endpoint.in_flight, 0, -tokens, 0)
        _add(self.total, 0, -tokens, 0)


def _learn(endpoint: Endpoint, done: Sequence[Prompt], did: PrefillCounters, now_s: float) -> None:
    """The pace, unless what was ahead of one of the prompts is not known: the server tells a sum of times only."""
    work_tokens = 0.0
    for prompt in done:
        if not prompt.work_tokens:
            return
        work_tokens += prompt.work_tokens
    endpoint.pace.learn(work_tokens, len(done) * did.first_token_s / did.first_tokens, now_s, len(done))


def _others_tokens(endpoint: Endpoint, progress: PrefillCounters, metrics: ServerMetrics) -> int:
    """Prompt tokens to be computed that came past this picker: what the server has in prefill and in its queue, less
    what this picker has there. What the server began and computed within one step it never showed."""
    inside = endpoint.prefills.pending_prefill_tokens(progress, metrics.scraped_at_s)
    if not metrics.foreign_requests or progress.prefix_queries < 1 or progress.first_tokens < 1:
        return 0
    queued = metrics.queue_depth * progress.prompt_tokens / progress.first_tokens
    fresh_share = max(0.0, 1.0 - progress.prefix_hits / progress.prefix_queries)
    return max(0, round(fresh_share * (inside + queued)) - endpoint.in_flight.prefill_tokens)


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
