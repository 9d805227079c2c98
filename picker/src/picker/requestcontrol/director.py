"""The director: finds the pool and the model of a request, schedules it, and counts it, in one step."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random

from msgspec.structs import replace

from picker.bounded_text import MAX_CHARACTERS, shorten
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.prefix_cache.index import block_hashes
from picker.rejection import SCHEDULING_REASONS, Rejection, RejectReason
from picker.requestcontrol.in_flight_request import InFlightRequest, schedule
from picker.requestcontrol.model_targets import choose_target
from picker.requestcontrol.pick_request import PickRequest
from picker.requestcontrol.prompt_work import BYTES_PER_TOKEN
from picker.requestcontrol.request_body import EMPTY_BODY
from picker.requestcontrol.request_observer import RejectedRequest, RequestObserver
from picker.requestcontrol.response_sampling import ResponseHeaderSampler
from picker.requestcontrol.served_pool import ServedPool
from picker.resources.names import PoolName
from picker.scheduling.request import InferenceRequest

BLOCK_TOKENS = 64
"""Of a hashed block: four of vLLM's blocks. Judgement: smaller blocks would match the server's cache more closely and
cost more hashes. A turn of a conversation is longer than this."""

BLOCK_BYTES = BLOCK_TOKENS * BYTES_PER_TOKEN

MAX_BLOCKS = 2048
"""Hashed of one prompt: half a MiB of text, or 131,072 tokens. Judgement: text beyond that hardly changes which
endpoint has the longest prefix."""

MAX_MESSAGE_CHARACTERS = 1024
"""Of a rejection's message that observers get. Judgement: a sentence and the names in it."""


class Director:
    """Assigns endpoints to the requests of all pools of one picker, and follows each request to its end."""

    def __init__(
        self,
        tracker: InFlightTracker,
        clock: Callable[[], float],
        rng: Random,
        *,
        unknown_models: bool,
        sample_all: bool = False,
        observers: Sequence[RequestObserver] = (),
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`clock`: the monotonic clock of the scrapes. `unknown_models`: whether a model that the pool does not declare
        is scheduled with priority 0; else it is rejected with 404. `sample_all`: whether the response headers of every
        request are requested. `timer`: measures the requests' times, because an event loop's clock may not advance
        during a decision."""
        self._tracker = tracker
        self._clock = clock
        self._rng = rng
        self._unknown_models = unknown_models
        self._sampler = ResponseHeaderSampler(clock, rng, every=sample_all)
        self._observers = observers
        self._timer = timer
        self._pools: Mapping[str, ServedPool] = {}
        self._default: str | None = None
        self.on_repeated: Callable[[PickRequest, InFlightRequest], None] | None = None
        """Called for each prompt whose beginning is already indexed and whose tokens are not known."""

    def serve(self, pools: Iterable[ServedPool], default: PoolName | None) -> None:
        """Replaces the pools. `default` gets the requests of gateways that name no pool."""
        self._pools = {pool.key: pool for pool in pools}
        self._default = str(default) if default is not None else None
        self._sampler.renaming(frozenset(key for key, pool in self._pools.items() if pool.renames()))

    def served(self, pool: str | None) -> ServedPool | None:
        """Returns the pool of requests that name `pool`, in the form `str(PoolName)`; None if it is not known."""
        name = pool if pool is not None else self._default
        return self._pools.get(name) if name is not None else None

    def wants_response_headers(self, pool: str | None) -> bool:
        """Whether the proxy has to send the response headers of a request to `pool`. Called once per request, before
        its body is known."""
        served = self.served(pool)
        return served is not None and self._sampler.should_sample(served.key)

    def assign(self, request: PickRequest) -> InFlightRequest | Rejection:
        """Schedules `request` and counts it on its endpoint, or rejects it. Calls the observers with the outcome."""
        timer = self._timer
        begun_s = timer()
        pool = self.served(request.pool)
        outcome = self._schedule(request, pool)
        decided_s = timer()
        if pool is None or isinstance(outcome, Rejection):
            assert isinstance(outcome, Rejection)
            self._report_rejected(request, outcome, pool, begun_s, decided_s)
            return outcome
        outcome.begun_s, outcome.decided_s = begun_s, decided_s
        for observer in self._observers:
            observer.scheduled(outcome, pool)
        if self.on_repeated is not None and outcome.sent is not None and outcome.sent.unnamed is not None:
            self.on_repeated(request, outcome)
        return outcome

    def report_rejected(self, request: PickRequest, rejection: Rejection) -> None:
        """Reports to the observers a request that was rejected before `assign`, for example because its body is too
        large. The body may not have been read."""
        now_s = self._timer()
        self._report_rejected(request, rejection, self.served(request.pool), now_s, now_s)

    def response_started(self, request: InFlightRequest, served_by: str | None, status: int | None) -> None:
        """Records the response headers. `served_by`: the endpoint that answered; None where the proxy does not report
        it."""
        # vLLM sends a stream's headers before its first token, and those of a whole response after its last one.
        # Neither marks the end of the prefill. So neither releases the prompt, nor is it used to estimate the speed.
        if served_by is not None:
            before = request.endpoint
            request.served_by(served_by)
            if request.endpoint is not before:
                for observer in self._observers:
                    observer.moved(request)
        if request.response_s is not None or request.ended_s is not None:
            return
        request.response_s, request.status = self._timer(), status
        request.count_response(failed=status is not None and status >= 500)
        if request.rerouted or (status is not None and status >= 400):
            self._sampler.sample_all(request.pool_key)

    def ended(self, request: InFlightRequest, *, not_sampled: bool = False) -> None:
        """Ends a request. `not_sampled`: its response headers were not requested."""
        if request.ended_s is not None:
            return
        if not_sampled:
            # Nearly all of these succeed: while some fail, all responses are sampled.
            request.count_response(failed=False)
        request.ended_s = self._timer()
        request.end(self._clock())
        for observer in self._observers:
            observer.ended(request)

    def _schedule(self, request: PickRequest, pool: ServedPool | None) -> InFlightRequest | Rejection:
        if pool is None:
            name = shorten(request.pool or "")
            return Rejection(
                RejectReason.POOL_UNKNOWN, f"This endpoint picker does not serve the InferencePool {name}."
            )
        body = request.body
        requested = body.model
        rewrite = request.model_rewrite if requested is not None else None
        targets = pool.targets(requested) if requested is not None and rewrite is None else None
        if targets is None and rewrite is None and requested is not None and not self._unknown_models:
            return Rejection(RejectReason.MODEL_UNKNOWN, f"The model {requested!r} does not exist.", param="model")
        target = choose_target(targets, self._rng) if targets is not None else rewrite or requested
        seed = _seed(target, body.salt)
        scheduled = schedule(
            InferenceRequest(
                model=target,
                priority=pool.priority(requested, request.objective),
                prompt_tokens=body.prompt_tokens,
                output_tokens=body.output_tokens,
                blocks=block_hashes(seed, body.prompt, BLOCK_BYTES, MAX_BLOCKS),
                sequences=body.sequences,
                subset=request.subset,
                slo=request.slo,
            ),
            pool.endpoints,
            pool.scheduler,
            pool.prefixes,
            self._tracker,
            self._clock(),
        )
        if isinstance(scheduled, Rejection):
            return scheduled
        scheduled.info = request.info
        scheduled.pool, scheduled.pool_key, scheduled.strategy = pool.label, pool.key, pool.strategy
        scheduled.requested_model = _bounded(requested)
        scheduled.served_model = target if target != requested else None
        return scheduled

    def _report_rejected(
        self, request: PickRequest, rejection: Rejection, pool: ServedPool | None, begun_s: float, decided_s: float
    ) -> None:
        body, priority = request.body, None
        if pool is not None and (body is not EMPTY_BODY or rejection.reason in SCHEDULING_REASONS):
            priority = pool.priority(body.model, request.objective)
        if len(rejection.message) > MAX_MESSAGE_CHARACTERS:
            rejection = replace(rejection, message=shorten(rejection.message, MAX_MESSAGE_CHARACTERS))
        rejected = RejectedRequest(
            rejection,
            request.info,
            pool.label if pool is not None else "",
            pool.strategy if pool is not None else "",
            priority,
            _bounded(body.model),
            body.prompt_tokens,
            begun_s,
            decided_s,
        )
        for observer in self._observers:
            observer.rejected(rejected, pool)


def _bounded(text: str | None) -> str | None:
    # `shorten` costs more than the comparison.
    return text if text is None or len(text) <= MAX_CHARACTERS else shorten(text)


def _seed(model: str | None, salt: bytes) -> bytes:
    """The start of the chain of block hashes. Prefix caches are not shared between models, nor between salts."""
    return (model or "").encode() + b"\0" + salt
