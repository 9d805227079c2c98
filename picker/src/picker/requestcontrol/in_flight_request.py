"""A decision and its bookkeeping in one step, and what is heard of the request afterwards."""

from collections.abc import Sequence
from typing import Protocol

from picker.endpoints.endpoint import Endpoint
from picker.endpoints.in_flight import InFlightTracker, Ticket
from picker.endpoints.prefix_cache.index import PrefixIndex, SentPrompt
from picker.scheduling.request import InferenceRequest, Ranking, Refusal
from picker.scheduling.terms.prefill import requests_there, work_ahead


class Schedules(Protocol):
    """What decides: `Scheduler`, or another in its place."""

    def schedule(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now_s: float) -> Ranking | Refusal:
        """Rank `endpoints` for `request`, or refuse it."""
        ...


class Dispatched:
    """A request that has its endpoint and is counted there. Its steps may come any number of times, in any order."""

    __slots__ = ("_prefixes", "predicted_ttft_s", "ranking", "request", "sent", "ticket")

    def __init__(
        self,
        ranking: Ranking,
        ticket: Ticket,
        request: InferenceRequest,
        prefixes: PrefixIndex,
        sent: SentPrompt | None,
        predicted_ttft_s: float | None,
    ) -> None:
        self.ranking = ranking
        self.ticket = ticket
        self.predicted_ttft_s = predicted_ttft_s
        """From the endpoint's pace and the work ahead; None before it has answered anything, and where it queues."""
        self.request = request
        self.sent = sent
        """What the prefix index is to be told at the end."""
        self._prefixes = prefixes

    def served_by(self, address: str) -> None:
        """The proxy says which endpoint of the list answered: the request is counted there, and its prompt cached. The
        proxy tries them in order, so each one before it failed: it cut or refused the connection."""
        endpoints = self.ranking.endpoints
        if self.ticket.endpoint.address == address:
            return
        for number, endpoint in enumerate(endpoints):
            if endpoint.address == address:
                for before in endpoints[:number]:
                    before.answer_counted(failed=True)
                self.ticket.moved_to(endpoint)
                self._forget_sent()
                self.sent = self._prefixes.sent(endpoint, self.request.blocks)
                return

    def answered(self, failed: bool) -> None:
        """The answer's headers are there; `failed`: it is an error of the server's."""
        self.ticket.answered(failed)

    def end(self, now_s: float) -> None:
        """The request has left its endpoint."""
        self.ticket.end(now_s)
        self._forget_sent()

    def _forget_sent(self) -> None:
        sent, self.sent = self.sent, None
        if sent is not None:
            self._prefixes.ended(sent)


def dispatch(
    request: InferenceRequest,
    endpoints: Sequence[Endpoint],
    scheduler: Schedules,
    prefixes: PrefixIndex,
    tracker: InFlightTracker,
    now_s: float,
) -> Dispatched | Refusal:
    """Choose among `endpoints` (the ready ones of the pool), and count the request on the best in the same step.
    `now_s` is on the clock of the scrapes."""
    tracker.expect(now_s)
    ranking = scheduler.schedule(request, endpoints, now_s)
    if isinstance(ranking, Refusal):
        return ranking
    best = ranking.endpoints[0]
    fresh = max(0, request.prompt_tokens - ranking.cached_tokens)
    queues = best.metrics is not None and best.metrics.queues
    work_tokens = 0.0 if queues else work_ahead(best, requests_there(best), fresh)
    sequences = request.sequences
    ticket = tracker.begin(best, fresh, request.output_tokens * sequences, work_tokens, now_s, request.model, sequences)
    sent = prefixes.sent(best, request.blocks) if request.blocks else None
    pace = best.pace.seconds_per_token
    # As if nothing were cached: what is comes from other clients' prompts, whose contents it would disclose.
    predicted_ttft_s = (
        pace * (work_tokens + request.prompt_tokens - fresh) if pace is not None and work_tokens else None
    )
    return Dispatched(ranking, ticket, request, prefixes, sent, predicted_ttft_s)
