"""A scheduler with perfect information: the state of every engine, and the output length of every request."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from random import Random

from picker.endpoints.endpoint import Endpoint
from picker.rejection import Rejection
from picker.scheduling.request import InferenceRequest, Ranking
from picker.scheduling.saturation import shed

from simulator.engine.fleet import Fleet, Replica
from simulator.schedulers.peers import NONE_READY, SHED, ranked
from simulator.workload.generator import Turn

SLOWED_TOKENS = 56.0
"""Delay of each running sequence by a request whatever its prompt, in prompt tokens. Measured on A10 and L20."""

INTERRUPTED_SHARE = 0.1
"""Delay of each running sequence, as a share of the prompt. Measured on A10 and L20."""


@dataclass(slots=True)
class GroundTruth:
    """The state of the fleet, and the request to schedule. A real picker does not have this information."""

    fleet: Fleet
    turn: Turn | None = None
    """The request that is being scheduled."""

    def replica(self, endpoint: Endpoint) -> Replica:
        return self.fleet.by_address[endpoint.address]


ADAPTER_WAIT_S = 4.0
"""Expected wait for an adapter slot of a server that runs as many adapters as it may. Judgement."""


class PerfectInformation:
    """A greedy scheduler with perfect information about speeds, caches, queues and lengths.

    It has its own cost function, similar to that of DEFAULT. It is no upper bound: a schedule that is not greedy may be
    better."""

    def __init__(self, ground_truth: GroundTruth, rng: Random) -> None:
        self._ground_truth = ground_truth
        self._rng = rng

    def schedule(self, request: InferenceRequest, endpoints: Sequence[Endpoint], now_s: float) -> Ranking | Rejection:
        if not endpoints:
            return NONE_READY
        if shed(request.priority, endpoints, now_s):
            return SHED
        turn = self._ground_truth.turn
        assert turn is not None, "no request is being scheduled"
        costs = [self._cost_s(turn, self._ground_truth.replica(endpoint)) for endpoint in endpoints]
        return ranked(costs, endpoints, self._rng)

    def _cost_s(self, turn: Turn, replica: Replica) -> float:
        if not replica.listening:
            return inf
        engine, config = replica.engine, replica.config
        uncached = turn.prompt_tokens - engine.cached_tokens(turn.content, turn.prompt_tokens - 1)
        view = engine.look_inside(turn.prompt_tokens)
        cost, batch = engine.step_time, view.sequences
        step_s = cost.base_s + cost.per_decode_s * batch + cost.per_context_token_s * view.context_tokens
        prompt_token_s = cost.per_prefill_token_s + step_s / config.max_num_batched_tokens
        first_s = step_s + view.steps_until_it_fits * step_s + (view.uncomputed_tokens + uncached) * prompt_token_s
        others_s = batch * (SLOWED_TOKENS + INTERRUPTED_SHARE * uncached) * prompt_token_s
        full = (view.context_tokens + turn.prompt_tokens + turn.output_tokens) / (
            config.num_gpu_blocks * config.block_size
        )
        pressure = 1.0 + 4.0 * max(0.0, min(1.0, full) - 0.5)
        waits = turn.lora is not None and turn.lora not in view.loras and len(view.loras) >= config.max_loras
        adapter_s = ADAPTER_WAIT_S if waits else 0.0
        return ((first_s + others_s) * pressure + adapter_s) * engine.slowdown**2
