"""The limit: a scheduler that sees into every engine and knows every answer's length."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from random import Random

from picker.endpoints.endpoint import Endpoint
from picker.rejection import Rejection
from picker.scheduling.cost import INTERRUPTED_SHARE, SLOWED_TOKENS
from picker.scheduling.request import InferenceRequest, Ranking
from picker.scheduling.saturation import shed

from simulator.engine.fleet import Fleet, Replica
from simulator.schedulers.peers import NONE_READY, SHED, ranked
from simulator.workload.generator import Turn


@dataclass(slots=True)
class Truth:
    """What no picker can know."""

    fleet: Fleet
    turn: Turn | None = None
    """The request that is being decided on."""

    def replica(self, endpoint: Endpoint) -> Replica:
        return self.fleet.by_address[endpoint.address]


ADAPTER_WAIT_S = 4.0
"""For a place, where a server runs as many adapters as it may."""


class Oracle:
    """DEFAULT's cost with nothing left to guess: true speeds, caches, queues and lengths, as they are at the moment. It
    is greedy, so not the best of all schedules: the limit of what better knowledge could give."""

    def __init__(self, truth: Truth, rng: Random) -> None:
        self._truth = truth
        self._rng = rng

    def schedule(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now_s: float) -> Ranking | Rejection:
        if not endpoints:
            return NONE_READY
        if shed(request.criticality, endpoints, now_s):
            return SHED
        turn = self._truth.turn
        assert turn is not None, "a request is being decided on"
        return ranked([self._cost_s(turn, self._truth.replica(each)) for each in endpoints], endpoints, self._rng)

    def _cost_s(self, turn: Turn, replica: Replica) -> float:
        if not replica.listening:
            return inf
        engine, config = replica.engine, replica.config
        fresh = turn.prompt_tokens - engine.cached_tokens(turn.content, turn.prompt_tokens - 1)
        view = engine.look_inside(turn.prompt_tokens)
        cost, batch = engine.step_time, view.sequences
        step_s = cost.base_s + cost.per_decode_s * batch + cost.per_context_token_s * view.context_tokens
        prompt_token_s = cost.per_prefill_token_s + step_s / config.max_num_batched_tokens
        first_s = step_s + view.steps_until_it_fits * step_s + (view.uncomputed_tokens + fresh) * prompt_token_s
        others_s = batch * (SLOWED_TOKENS + INTERRUPTED_SHARE * fresh) * prompt_token_s
        full = (view.context_tokens + turn.prompt_tokens + turn.output_tokens) / (
            config.num_gpu_blocks * config.block_size
        )
        pressure = 1.0 + 4.0 * max(0.0, min(1.0, full) - 0.5)
        waits = turn.lora is not None and turn.lora not in view.loras and len(view.loras) >= config.max_loras
        adapter_s = ADAPTER_WAIT_S if waits else 0.0
        return ((first_s + others_s) * pressure + adapter_s) * engine.slowdown**2
