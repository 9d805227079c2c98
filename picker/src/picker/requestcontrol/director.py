"""Where a request that has been read gets its endpoint: pool, model, schedule, and the ledger, in one step."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import msgspec
import structlog

from picker.bounded_text import shorten
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.prefix_cache.index import PrefixIndex, block_hashes
from picker.requestcontrol.in_flight_request import Dispatched, dispatch
from picker.requestcontrol.interfaces import Wanted
from picker.requestcontrol.model_targets import choose_target
from picker.requestcontrol.prompt_work import BYTES_PER_TOKEN
from picker.requestcontrol.rejection import Reason, Rejection
from picker.requestcontrol.response_sampling import ResponseHeaderSampler
from picker.requestcontrol.session_key import session_key
from picker.resources.inference import (
    Criticality,
    InferenceModel,
    InferenceObjective,
    InferencePool,
    ModelRewrites,
    TargetModel,
)
from picker.resources.names import PoolName
from picker.scheduling.request import InferenceRequest, Refusal, Refused
from picker.scheduling.scheduler import Scheduler

log = structlog.get_logger(__name__)

STATUS_OF_REFUSAL: Mapping[Refused, int] = {
    Refused.NO_READY_ENDPOINTS: 503,
    Refused.SUBSET_EMPTY: 503,
    Refused.SATURATED: 429,
    Refused.QUEUE_FULL: 429,
    Refused.QUEUE_TIMEOUT: 503,
}
"""The endpoint picker protocol's: 503 where nothing is ready or becomes ready in time, 429 where a request is shed."""

BLOCK_TOKENS = 64
"""In a hashed block: four of vLLM's blocks. Finer ones would follow the server's cache more closely and cost more
hashes; a conversation's turns are longer than this."""

BLOCK_BYTES = BLOCK_TOKENS * BYTES_PER_TOKEN

MAX_BLOCKS = 2048
"""Hashed of one prompt: half a MiB of text, or 131,072 tokens. What comes after does not change who has the prefix."""


_CRITICALITY_OF_SIGN: Mapping[int, Criticality] = {
    -1: Criticality.SHEDDABLE,
    0: Criticality.STANDARD,
    1: Criticality.CRITICAL,
}
"""Of an objective's priority: below 0 is what may be shed, above it what must not."""

NO_REWRITES = ModelRewrites({}, ())


@dataclass(frozen=True, slots=True)
class ServedPool:
    """A pool with what serving it needs. Replaced when the pool's object changes; scheduler and prefixes live on."""

    pool: InferencePool
    models: Mapping[str, InferenceModel]
    endpoints: Sequence[Endpoint]
    """The pool's ready endpoints now: the registry's own sequence, changed in place."""
    scheduler: Scheduler
    prefixes: PrefixIndex
    rewrites: ModelRewrites = NO_REWRITES
    objectives: Mapping[str, InferenceObjective] = field(default_factory=dict[str, InferenceObjective])
    """By the name that requests give."""

    def targets(self, model: str) -> Sequence[TargetModel] | None:
        """What serves `model`, an InferenceModel before a rewrite; None for one that neither names."""
        declared = self.models.get(model)
        return declared.targets if declared is not None else self.rewrites.targets(model) or None

    def renames(self) -> bool:
        """Whether any model may be served under another name."""
        if self.rewrites.others:
            return True
        given = {name: model.targets for name, model in self.models.items()}
        named = (*given.items(), *self.rewrites.by_model.items())
        return any(target.name != name for name, targets in named for target in targets)

    def criticality(self, model: str | None, objective: str | None) -> Criticality:
        """By the objective that a request names, if there is one of that name; else by its model."""
        named = self.objectives.get(objective) if objective is not None else None
        if named is not None:
            return _CRITICALITY_OF_SIGN[(named.priority > 0) - (named.priority < 0)]
        declared = self.models.get(model) if model is not None else None
        return declared.criticality if declared is not None else Criticality.STANDARD


class Assigned(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A request with its endpoint; see `interfaces.Assignment`."""

    served_model: str | None
    pool: ServedPool
    dispatched: Dispatched
    _clock: Callable[[], float]
    _answers: ResponseHeaderSampler

    @property
    def destination(self) -> str:
        return ",".join([endpoint.address for endpoint in self.dispatched.ranking.endpoints])

    @property
    def predicted_ttft_s(self) -> float | None:
        return self.dispatched.predicted_ttft_s

    def served_by(self, address: str) -> None:
        picked = self.dispatched.ticket.endpoint
        self.dispatched.served_by(address)
        if self.dispatched.ticket.endpoint is not picked:
            self._answers.trouble(str(self.pool.pool.name))

    def first_byte(self, status: int | None) -> None:
        # vLLM sends a stream's headers before its first token, and those of a whole answer after its last: neither
        # tells when the prompt was computed, so neither frees its prefill nor teaches the endpoint's pace.
        self.dispatched.answered(failed=status is not None and status >= 500)
        if status is not None and status >= 400:
            self._answers.trouble(str(self.pool.pool.name))

    def end(self, *, not_sampled: bool = False) -> None:
        if not_sampled:
            # Nearly all are answered, and while some fail each is looked at.
            self.dispatched.answered(failed=False)
        self.dispatched.end(self._clock())


class PoolDesk:
    """Assigns endpoints in all pools of one picker; see `interfaces.Desk`."""

    def __init__(
        self,
        tracker: InFlightTracker,
        clock: Callable[[], float],
        rng: Random,
        *,
        unknown_models: bool,
        every_answer: bool = False,
    ) -> None:
        """`clock`: the monotonic clock that the scrapes are stamped with. `unknown_models`: whether a model that the
        pool does not declare is passed on as Standard (or answered 404). `every_answer`: see `answers`."""
        self._tracker = tracker
        self._clock = clock
        self._rng = rng
        self._unknown_models = unknown_models
        self._answers = ResponseHeaderSampler(clock, rng, every=every_answer)
        self._pools: Mapping[str, ServedPool] = {}
        self._default: str | None = None
        self.on_repeated: Callable[[Wanted, Assigned], None] | None = None
        """Called for each prompt whose beginning has come before and whose tokens are not known."""

    def serve(self, pools: Iterable[ServedPool], default: PoolName | None) -> None:
        """Serve these pools from now on; `default` gets requests of gateways that do not say which pool they mean."""
        self._pools = {str(served.pool.name): served for served in pools}
        self._default = str(default) if default is not None else None
        self._answers.renaming(frozenset(name for name, served in self._pools.items() if served.renames()))

    def wants_response_headers(self, pool: str | None) -> bool:
        name = pool if pool is not None else self._default
        return name is not None and name in self._pools and self._answers.wanted(name)

    def turned_away(self, wanted: Wanted, rejection: Rejection) -> None:
        """Nothing is in flight, so there is nothing to count."""

    def assign(self, wanted: Wanted) -> Assigned | Rejection:
        served = self.served(wanted.pool)
        if served is None:
            return Rejection(
                503, Reason.POOL_UNKNOWN, f"The endpoint picker knows no InferencePool {shorten(wanted.pool or '')}."
            )
        asked = wanted.body.model
        targets = served.targets(asked) if asked is not None else None
        if targets is None and asked is not None and not self._unknown_models:
            return Rejection(404, Reason.MODEL_UNKNOWN, f"The model {asked!r} does not exist.", param="model")
        target = choose_target(targets, self._rng) if targets is not None else asked
        body, seed = wanted.body, _seed(target, wanted.body.salt)
        of_conversation, continues = session_key(body.prompt, seed)
        request = InferenceRequest(
            model=target,
            criticality=served.criticality(asked, wanted.objective),
            prompt_tokens=body.prompt_tokens,
            output_tokens=body.output_tokens,
            blocks=block_hashes(seed, body.prompt, BLOCK_BYTES, MAX_BLOCKS),
            conversation=of_conversation,
            continues=continues,
            sequences=body.sequences,
            subset=wanted.subset,
        )
        dispatched = dispatch(
            request, served.endpoints, served.scheduler, served.prefixes, self._tracker, self._clock()
        )
        if isinstance(dispatched, Refusal):
            return Rejection(STATUS_OF_REFUSAL[dispatched.reason], dispatched.reason, dispatched.detail)
        assigned = Assigned(target if target != asked else None, served, dispatched, self._clock, self._answers)
        sent = dispatched.sent
        if sent is not None and sent.unnamed is not None and self.on_repeated is not None:
            self.on_repeated(wanted, assigned)
        return assigned

    def served(self, pool: str | None) -> ServedPool | None:
        """What serves requests that fell to `pool`, in the form `str(PoolName)`; None for one that is not known."""
        name = pool if pool is not None else self._default
        return self._pools.get(name) if name is not None else None


def _seed(model: str | None, salt: bytes) -> bytes:
    """Starts the chain of block hashes: caches are not shared between models, nor between salts."""
    return (model or "").encode() + b"\0" + salt
