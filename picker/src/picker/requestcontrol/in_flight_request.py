"""A scheduled request, from the pick to its end."""

from collections.abc import Sequence
from typing import Protocol

from msgspec.structs import replace

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.in_flight import CountedRequest, InFlightTracker
from picker.endpoints.load.prefill_tracker import Prompt
from picker.endpoints.prefix_cache.index import PrefixIndex, SentPrompt
from picker.rejection import Rejection
from picker.requestcontrol.pick_request import NO_INFO, RequestInfo
from picker.scheduling.request import InferenceRequest, Ranking
from picker.scheduling.terms.prefill import predicted_first_token_s, requests_there


class InFlightRequest(CountedRequest, eq=False, gc=False, kw_only=True):
    """A scheduled request, counted on its endpoint until `end`. Its methods may be called repeatedly, in any order.

    The list of recent decisions keeps it after the request's end. So it never refers to the body, and discards the
    prompt's hashes at the end. Times are in seconds on the director's timer, a monotonic clock."""

    request: InferenceRequest
    """Without the hashes of the prompt's blocks after the end."""
    ranking: Ranking
    """The endpoints that the proxy is to try, best first."""
    prefixes: PrefixIndex | None
    """Of the pool; None after the end."""
    sent: SentPrompt | None
    """The prompt as the prefix index expects it in the endpoint's cache; None after the end."""
    predicted_ttft_s: float | None
    """From the pick to the first token. None while the endpoint's speed is unknown, and while requests queue there."""
    info: RequestInfo = NO_INFO
    pool: str = ""
    """NAMESPACE/NAME."""
    pool_key: str = ""
    """`ServedPool.key`."""
    strategy: str = ""
    requested_model: str | None = None
    """The model's name as the client gave it."""
    served_model: str | None = None
    """The servers' name for the model where it differs from the client's."""
    begun_s: float = 0.0
    """When the director received the request."""
    decided_s: float = 0.0
    response_s: float | None = None
    """When the response headers were received; None before that, and where the proxy does not send them."""
    status: int | None = None
    """Of the response; None where it is not known."""
    ended_s: float | None = None

    @property
    def destination(self) -> str:
        """`ip:port[,ip:port...]`, best first."""
        return ",".join([endpoint.address for endpoint in self.ranking.endpoints])

    @property
    def rerouted(self) -> bool:
        """Whether the proxy sent the request to another endpoint than the best one."""
        return self.endpoint is not self.ranking.endpoints[0]

    def served_by(self, address: str) -> None:
        """Counts the request on the endpoint that serves it, as the proxy reports. An `address` outside the ranking is
        ignored.

        The proxy tries the endpoints in order. So each one before `address` has refused or reset the connection, and is
        counted as failed."""
        prefixes = self.prefixes
        if prefixes is None or self.endpoint.address == address:
            return
        endpoints = self.ranking.endpoints
        for number, endpoint in enumerate(endpoints):
            if endpoint.address == address:
                for failed in endpoints[:number]:
                    failed.answer_counted(failed=True)
                self.move_to(endpoint)
                self._drop_sent()
                self.sent = prefixes.sent(endpoint, self.request.blocks)
                return

    def end(self, now_s: float) -> None:
        """Ends the request. `now_s` is on the clock of the scrapes."""
        self.uncount(now_s)
        self._drop_sent()
        if self.prefixes is not None:
            self.prefixes = None
            self.request = replace(self.request, blocks=())

    def _drop_sent(self) -> None:
        sent, self.sent = self.sent, None
        if sent is not None and self.prefixes is not None:
            self.prefixes.ended(sent)


class Schedules(Protocol):
    """A scheduler: the picker's, or one that it is compared with."""

    def schedule(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now_s: float) -> Ranking | Rejection:
        """Ranks `endpoints` for `request`, or rejects it."""
        ...


def schedule(
    request: InferenceRequest,
    endpoints: Sequence[Endpoint],
    scheduler: Schedules,
    prefixes: PrefixIndex,
    tracker: InFlightTracker,
    now_s: float,
) -> InFlightRequest | Rejection:
    """Ranks `endpoints`, the ready ones of the pool, and counts the request on the best one in the same step. `now_s`
    is on the clock of the scrapes."""
    tracker.expect(now_s)
    ranking = scheduler.schedule(request, endpoints, now_s)
    if isinstance(ranking, Rejection):
        return ranking
    best = ranking.endpoints[0]
    uncached = max(0, request.prompt_tokens - ranking.cached_tokens)
    queues = best.metrics is not None and best.metrics.queues
    running, slowness = requests_there(best), best.speed.slowness
    predicted_s = 0.0 if queues else predicted_first_token_s(best, running, uncached)
    sequences = request.sequences
    # As if nothing were cached. A prediction that depends on the cache would disclose the prompts of other clients.
    predicted_ttft_s = None
    if slowness is not None and predicted_s:
        is_uncached = uncached == request.prompt_tokens
        first_token_s = predicted_s if is_uncached else predicted_first_token_s(best, running, request.prompt_tokens)
        predicted_ttft_s = slowness * first_token_s
    in_flight = InFlightRequest(
        best,
        Prompt(uncached, predicted_s, now_s, sequences),
        request.output_tokens * sequences,
        request.model,
        request=request,
        ranking=ranking,
        prefixes=prefixes,
        sent=None,
        predicted_ttft_s=predicted_ttft_s,
    )
    tracker.begin(in_flight, now_s)
    if request.blocks:
        in_flight.sent = prefixes.sent(best, request.blocks)
    return in_flight
