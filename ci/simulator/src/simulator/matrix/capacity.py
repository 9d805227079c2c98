"""The capacity of a server for a workload, computed from its step times and its KV cache.

A server that runs n sequences serves r = n / (O s) requests a second, where O is the mean number of output tokens and s
the duration of a step. A step decodes n sequences, reads their context, and prefills the prompts that arrive meanwhile:

    s = base + n (b + d C) + r s P c    and    r s = n / O    so    s = base + n (b + d C + c P / O)

P is the mean number of prompt tokens that are not cached, C the mean context of a running sequence. r grows with n. The
saturated rate is that of the largest n, which `max_num_seqs` or the KV cache limits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from random import Random

from vllm_mock.engine.speed import CARDS, Card

from simulator.workload.generator import sessions
from simulator.workload.scenario import Generated, Poisson, Replicas

SAMPLED_REQUESTS = 3000
"""Judgement: the standard error of a mean length is at most 3 %, with the heaviest tail of the matrix."""


@dataclass(frozen=True, slots=True)
class Request:
    """The mean request of a workload, in tokens."""

    prompt: float
    """Length of the prompt."""
    uncached: float
    """Tokens of the prompt that no cache holds if every request goes where its prefix is."""
    output: float
    shared: float = 0.0
    """Tokens of the prompt that are those of other sessions. Their blocks are held once."""
    turns: float = 1.0
    """Requests of a session."""

    @property
    def context(self) -> float:
        """Mean tokens that attention reads for it in a step."""
        return self.prompt + self.output / 2

    @property
    def held(self) -> float:
        """Mean tokens of the KV cache that it alone holds."""
        return self.context - self.shared


def mean_request(workload: Generated) -> Request:
    """The mean over sessions with `SAMPLED_REQUESTS` requests. Arrivals do not matter."""
    arrivals = Poisson(kind="poisson", rate_per_s=1.0)
    drawn = sessions(workload.model_copy(update={"arrivals": arrivals}), inf, Random("mean request"))
    count = prompt = uncached = output = shared = session_count = 0
    for session in drawn:
        session_count += 1
        known = 0
        for turn in session.turns:
            prefix = turn.content.pieces[0].end_tokens if len(turn.content.pieces) > 1 else 0
            count += 1
            prompt += turn.prompt_tokens
            output += turn.output_tokens
            shared += prefix
            uncached += turn.prompt_tokens - max(known, prefix)
            known = turn.prompt_tokens + turn.output_tokens
        if count >= SAMPLED_REQUESTS:
            break
    return Request(prompt / count, uncached / count, output / count, shared / count, count / session_count)


@dataclass(frozen=True, slots=True)
class Server:
    """One replica: a card, with the factors of `Replicas` on its step times and its cache."""

    card: Card
    slowdown: float = 1.0
    cache: float = 1.0

    @property
    def kv_tokens(self) -> float:
        """Tokens that its KV cache holds."""
        return self.card.kv_tokens * self.cache

    def most_sequences(self, request: Request) -> float:
        """The largest number of such requests that run at once."""
        return min(self.card.max_num_seqs, self.kv_tokens / request.held)

    def step_s(self, request: Request, sequences: float) -> float:
        """Duration of a step with so many sequences."""
        time = self.card.step_time
        each_s = (
            time.per_decode_s
            + time.per_context_token_s * request.context
            + time.per_prefill_token_s * request.uncached / request.output
        )
        return self.slowdown * (time.base_s + sequences * each_s)

    def rate_per_s(self, request: Request, sequences: float) -> float:
        """Requests per second with so many sequences."""
        return sequences / (request.output * self.step_s(request, sequences))

    def saturated_rate_per_s(self, request: Request) -> float:
        """The largest rate that the server can sustain."""
        return self.rate_per_s(request, self.most_sequences(request))

    def sequences_at(self, request: Request, rate_per_s: float) -> float:
        """The number of running sequences at a rate. At most `most_sequences`: beyond that, requests wait."""
        base_s = self.step_s(request, 0)
        each_s = self.step_s(request, 1) - base_s
        left = 1 - rate_per_s * request.output * each_s
        most = self.most_sequences(request)
        return min(most, rate_per_s * request.output * base_s / left) if left > 0 else most


@dataclass(frozen=True, slots=True)
class FleetCapacity:
    """What a fleet can serve of one workload."""

    servers: Sequence[Server]
    request: Request

    @staticmethod
    def of(fleet: Sequence[Replicas], workload: Generated) -> "FleetCapacity":
        servers = [
            Server(CARDS[replicas.card], replicas.slowdown, replicas.cache)
            for replicas in fleet
            for _ in range(replicas.count)
        ]
        return FleetCapacity(servers, mean_request(workload))

    @property
    def kv_tokens(self) -> float:
        return sum(server.kv_tokens for server in self.servers)

    @property
    def most_sequences(self) -> float:
        """The largest number of requests that run at once."""
        return sum(server.most_sequences(self.request) for server in self.servers)

    @property
    def saturated_rate_per_s(self) -> float:
        """The largest rate of requests that the fleet can sustain, if each server gets its share."""
        return sum(server.saturated_rate_per_s(self.request) for server in self.servers)

    def residence_s(self, load: float) -> float:
        """How long a request runs at a load relative to the saturated rate. By Little's law."""
        load = min(load, 1.0)
        running = rate_per_s = 0.0
        for server in self.servers:
            own = load * server.saturated_rate_per_s(self.request)
            running += server.sequences_at(self.request, own)
            rate_per_s += own
        return running / rate_per_s

    @property
    def saturated_step_s(self) -> float:
        """Duration of a step of a saturated server, the mean of the servers."""
        steps = [server.step_s(self.request, server.most_sequences(self.request)) for server in self.servers]
        return sum(steps) / len(steps)

    def prefill_s(self, tokens: float) -> float:
        """Time to prefill so many tokens on an idle server, the mean of the servers."""
        times = [server.slowdown * server.card.step_time.per_prefill_token_s for server in self.servers]
        return tokens * sum(times) / len(times)
