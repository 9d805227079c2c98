"""Requests in flight, counted per endpoint. A request of this picker is counted in the same step as the pick: no scrape
is as fresh. A request of a peer is counted as soon as it is reported (see the package `peers`), in the same way.

Prompt tokens leave the count when the prompt is computed. The endpoint's speed predicts when; a scrape confirms it."""

from collections.abc import Callable, Sequence
from heapq import heappop, heappush

import msgspec

from picker.endpoints.endpoint import Endpoint, InFlight, ServerMetrics
from picker.endpoints.load.prefill_tracker import PrefillCounters, Prompt
from picker.endpoints.load.step_time import StepWork


class CountedRequest(msgspec.Struct, eq=False, gc=False):
    """A request that is counted on an endpoint, from `InFlightTracker.begin` to `uncount`.

    Its methods may be called repeatedly and in any order; each step counts once, and nothing counts after `uncount`.
    The endpoint may leave its pool meanwhile."""

    endpoint: Endpoint
    """Where the request is counted."""
    prompt: Prompt
    decode_tokens: int
    """Expected of all its sequences; 0 for a request that generates nothing."""
    model: str | None
    """The servers' name for the model, a LoRA adapter's name included."""
    tracker: "InFlightTracker | None" = None
    """None before the request is counted, and after."""
    succeeded: bool = False
    """Whether the endpoint has begun a response that is no error."""

    def move_to(self, endpoint: Endpoint) -> None:
        """Count the request on `endpoint`, which serves it after the proxy fell back. The failures of the endpoints
        before it are the caller's to count."""
        before, prompt = self.endpoint, self.prompt
        if self.tracker is None or endpoint is before:
            return
        sequences = prompt.sequences
        _add(before.in_flight, -sequences, -prompt.tokens, -self.decode_tokens)
        _add(endpoint.in_flight, sequences, prompt.tokens, self.decode_tokens)
        if prompt.from_peer:
            _add(before.peers_in_flight, -sequences, -prompt.tokens, -self.decode_tokens)
            _add(endpoint.peers_in_flight, sequences, prompt.tokens, self.decode_tokens)
        if self.decode_tokens:
            before.credibility.generating -= 1
            endpoint.credibility.generating += 1
            endpoint.credibility.begun += 1
        _count_model(before.in_flight, self.model, -sequences)
        _count_model(endpoint.in_flight, self.model, sequences)
        # The work that the other endpoint had ahead of it is unknown.
        prompt.predicted_s = 0.0
        if before.prefills.moved(prompt):
            endpoint.prefills.sent(prompt)
        self.endpoint = endpoint

    def count_response(self, *, failed: bool) -> None:
        """Count a response on the endpoint's error rate. `failed`: it is an error of the server's."""
        if self.tracker is not None:
            self.endpoint.answer_counted(failed=failed)
            self.succeeded = not failed

    def prompt_computed(self) -> None:
        """Stop counting the prompt's tokens: they are computed."""
        if self.tracker is not None:
            self.tracker.release(self.endpoint, (self.prompt,))

    def uncount(self, now_s: float) -> None:
        """Stop counting the request: its response has ended, or its client has left."""
        tracker = self.tracker
        if tracker is None:
            return
        self._subtract(tracker)
        endpoint = self.endpoint
        endpoint.drain.ended(now_s, endpoint.in_flight.requests, self.prompt.sequences)
        if tracker.on_freed is not None:
            tracker.on_freed()

    def withdraw(self) -> None:
        """Stop counting a request whose end is not known, because its peer is silent. Nothing is learned from it."""
        if self.tracker is not None:
            self.succeeded = False
            self._subtract(self.tracker)

    def _subtract(self, tracker: "InFlightTracker") -> None:
        self.tracker = None
        endpoint, prompt = self.endpoint, self.prompt
        endpoint.prefills.ended(prompt, self.succeeded)
        if self.decode_tokens:
            endpoint.credibility.generating -= 1
            endpoint.credibility.ended += self.succeeded
        sequences = prompt.sequences
        _add(endpoint.in_flight, -sequences, -prompt.tokens, -self.decode_tokens)
        if prompt.from_peer:
            _add(endpoint.peers_in_flight, -sequences, -prompt.tokens, -self.decode_tokens)
            _add(tracker.peers, -sequences, -prompt.tokens, -self.decode_tokens)
        else:
            _add(tracker.total, -sequences, -prompt.tokens, -self.decode_tokens)
        _count_model(endpoint.in_flight, self.model, -sequences)


class InFlightTracker:
    """All requests in flight through this picker and its peers. Its counts are sums over the counted requests, so they
    are never negative, and 0 when the last request has ended."""

    __slots__ = ("_begun", "_expected", "on_freed", "on_outran_scrape", "on_restarted", "peers", "total")

    def __init__(self) -> None:
        self.total = InFlight()
        """Sums over this picker's requests on all endpoints, those that have left their pools included."""
        self.peers = InFlight()
        """Sums over the requests of peers. They are no part of `total`."""
        self.on_freed: Callable[[], None] | None = None
        """Called when a scrape shows that prompts are computed, and when a request has ended."""
        self.on_restarted: Callable[[Endpoint], None] | None = None
        """Called when a scrape shows that a server has restarted: its prefix cache is empty."""
        self.on_outran_scrape: Callable[[Endpoint], None] | None = None
        """Called at each request that is sent to an endpoint which has outrun its newest scrape."""
        self._begun = 0
        self._expected: list[tuple[float, int, CountedRequest]] = []
        """A heap of the times at which prompts are expected to be computed. The number orders entries of one time."""

    def begin(self, request: CountedRequest, now_s: float) -> None:
        """Count `request` on its endpoint from now on, as the server does: once per sequence.
        Raises ValueError on negative tokens."""
        endpoint, prompt, decode_tokens = request.endpoint, request.prompt, request.decode_tokens
        if prompt.tokens < 0 or decode_tokens < 0:
            raise ValueError(f"{prompt.tokens} prefill and {decode_tokens} decode tokens: neither may be negative")
        sequences = prompt.sequences
        _add(endpoint.in_flight, sequences, prompt.tokens, decode_tokens)
        if prompt.from_peer:
            _add(endpoint.peers_in_flight, sequences, prompt.tokens, decode_tokens)
            _add(self.peers, sequences, prompt.tokens, decode_tokens)
        else:
            _add(self.total, sequences, prompt.tokens, decode_tokens)
        _count_model(endpoint.in_flight, request.model, sequences)
        request.tracker = self
        if decode_tokens:
            # Only a request that generates has a first token to be counted.
            endpoint.prefills.sent(prompt)
            endpoint.credibility.generating += 1
            endpoint.credibility.begun += 1
        slowness = endpoint.speed.slowness
        if slowness is not None and prompt.predicted_s:
            self._begun += 1
            heappush(self._expected, (now_s + slowness * prompt.predicted_s, self._begun, request))
        if self.on_outran_scrape is not None and endpoint.outran_scrape:
            self.on_outran_scrape(endpoint)

    def expect(self, now_s: float) -> None:
        """Release the prompts that are expected to be computed by now. A server computes several prompts between two
        scrapes; counting them until the next one would overstate the load of all endpoints and hide differences."""
        expected = self._expected
        while expected and expected[0][0] <= now_s:
            heappop(expected)[2].prompt_computed()

    def scraped(self, endpoint: Endpoint, metrics: ServerMetrics) -> None:
        """Take over new metrics of `endpoint`: release the prompts that they show to be computed, and learn the
        endpoint's speed from the time that those took."""
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
                    self.release(endpoint, done)
                    if self.on_freed is not None:
                        self.on_freed()
        endpoint.foreign_prefill_tokens = _foreign_prefill_tokens(endpoint, progress, metrics)
        if before is not None:
            work = _step_work(endpoint, before, metrics)
            endpoint.step_time.scraped(work, progress.prefix_queries - progress.prompt_tokens)
        endpoint.in_flight.was_idle = not endpoint.in_flight.requests

    def release(self, endpoint: Endpoint, prompts: Sequence[Prompt]) -> None:
        """Stop counting the tokens of `prompts`: they are computed."""
        own = of_peers = 0
        for prompt in prompts:
            if prompt.from_peer:
                of_peers += prompt.tokens
            else:
                own += prompt.tokens
            prompt.tokens = 0
        _add(endpoint.in_flight, 0, -own - of_peers, 0)
        _add(self.total, 0, -own, 0)
        if of_peers:
            _add(endpoint.peers_in_flight, 0, -of_peers, 0)
            _add(self.peers, 0, -of_peers, 0)


def _learn(endpoint: Endpoint, done: Sequence[Prompt], did: PrefillCounters, now_s: float) -> None:
    """Learn the speed, unless the work ahead of one of the prompts is unknown: the server reports one sum of times."""
    predicted_s = 0.0
    for prompt in done:
        if not prompt.predicted_s:
            return
        predicted_s += prompt.predicted_s
    endpoint.speed.learn(predicted_s, len(done) * did.first_token_s / did.first_tokens, now_s, len(done))


def _step_work(endpoint: Endpoint, before: ServerMetrics, metrics: ServerMetrics) -> StepWork | None:
    """What the server computed between two scrapes; None if it may have been idle meanwhile, or does not report it."""
    if endpoint.in_flight.was_idle or not (before.running and metrics.running):
        return None
    if before.steps is None or metrics.steps is None or metrics.progress is None or before.progress is None:
        return None
    if before.generation_tokens is None or metrics.generation_tokens is None:
        return None
    did = metrics.progress.since(before.progress)
    steps = metrics.steps - before.steps
    generated = metrics.generation_tokens - before.generation_tokens
    if did is None or steps < 0.0 or generated < 0.0:
        return None
    # Queries count at a prompt's admission, prompt tokens at its first token.
    prompt_tokens = did.prefix_queries - did.prefix_hits if did.prefix_queries else did.prompt_tokens
    context = 0.5 * (before.kv_cache_usage * before.cache_tokens + metrics.kv_cache_usage * metrics.cache_tokens)
    return StepWork(metrics.scraped_at_s - before.scraped_at_s, steps, generated, prompt_tokens, context * steps)


def _foreign_prefill_tokens(endpoint: Endpoint, progress: PrefillCounters, metrics: ServerMetrics) -> int:
    """Prompt tokens to be computed that did not come through this picker or its peers: those that the server has in
    prefill and in its queue, minus those that these have there. Prompts that begin and end within one step are never
    shown."""
    inside = endpoint.prefills.pending_prefill_tokens(progress, metrics.scraped_at_s)
    if not metrics.foreign_requests or progress.prefix_queries < 1 or progress.first_tokens < 1:
        return 0
    queued = metrics.queue_depth * progress.prompt_tokens / progress.first_tokens
    uncached_share = max(0.0, 1.0 - progress.prefix_hits / progress.prefix_queries)
    return max(0, round(uncached_share * (inside + queued)) - endpoint.in_flight.prefill_tokens)


def _add(counts: InFlight, requests: int, prefill_tokens: int, decode_tokens: int) -> None:
    counts.requests += requests
    if not counts.requests:
        counts.was_idle = True
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
