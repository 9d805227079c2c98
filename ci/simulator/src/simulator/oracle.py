"""The limit: a scheduler that sees into every engine and knows every answer's length."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from random import Random

from picker.endpoints.endpoint import Endpoint
from picker.scheduling.request import InferenceRequest, Ranking, Refusal

from simulator.baselines import NONE_READY, ranked
from simulator.fleet import Fleet, Replica
from simulator.workload import Turn


@dataclass(slots=True)
class Truth:
    """What no picker can know."""

    fleet: Fleet
    turn: Turn | None = None
    """The request that is being decided on."""

    def replica(self, endpoint: Endpoint) -> Replica:
        return self.fleet.by_address[endpoint.address]


class Oracle:
    """Sends a request where the time it takes and the time it costs all others are least together: greedy, so not the
    best of all schedules, but with nothing left to guess."""

    def __init__(self, truth: Truth, rng: Random) -> None:
        self._truth = truth
        self._rng = rng

    def schedule(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now_s: float) -> Ranking | Refusal:
        if not endpoints:
            return NONE_READY
        turn = self._truth.turn
        assert turn is not None, "a request is being decided on"
        return ranked([self._cost_s(turn, self._truth.replica(each)) for each in endpoints], endpoints, self._rng)

    def _cost_s(self, turn: Turn, replica: Replica) -> float:
        if not replica.listening:
            return inf
        engine, size = replica.engine, replica.config.block_size
        keys = turn.content.keys(turn.prompt_tokens - 1, size)
        fresh = turn.prompt_tokens - engine.cached_tokens(keys)
        view = engine.look_inside(turn.prompt_tokens)
        cost, slowdown = engine.step_time, engine.slowdown
        tokens = turn.prompt_tokens + turn.output_tokens
        batch = view.sequences
        step_s = slowdown * (cost.base_s + cost.per_decode_s * batch + cost.per_context_token_s * view.context_tokens)
        per_token_s = slowdown * cost.per_prefill_token_s + step_s / replica.config.max_num_batched_tokens
        wait_s = view.steps_until_it_fits * step_s + view.uncomputed_tokens * per_token_s
        own_s = wait_s + fresh * per_token_s + turn.output_tokens * step_s
        slower_step_s = slowdown * (cost.per_decode_s + cost.per_context_token_s * tokens)
        others_s = batch * (fresh * per_token_s + min(turn.output_tokens, view.mean_steps_left) * slower_step_s)
        return own_s + others_s
