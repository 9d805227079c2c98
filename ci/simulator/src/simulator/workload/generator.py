"""Generates the sessions of a workload: their arrivals and requests."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random

from picker.resources.inference import Criticality

from simulator.workload.content import Content, Piece
from simulator.workload.distributions import Zipf, tokens
from simulator.workload.scenario import Bursts, Closed, Generated, Poisson

UNBOUNDED = 1 << 30
"""End of a piece that no other piece follows."""

MAX_SEQUENCE_TOKENS = 60_000
"""Limit of a growing session. Judgement: an A10's KV cache holds such a sequence and can still decode."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a client."""

    gap_s: float
    """Time since the client's last response, or since its arrival."""
    content: Content
    prompt_tokens: int
    output_tokens: int
    max_tokens: int
    """`max_tokens` of the request."""
    lora: str | None
    criticality: Criticality


@dataclass(frozen=True, slots=True)
class Session:
    """A client that arrives and sends one request after the other."""

    start_s: float
    turns: Iterator[Turn]


def sessions(workload: Generated, duration_s: float, rng: Random) -> Iterator[Session]:
    """Yields sessions in the order of arrival. Equal seeds give equal sessions.

    Each session has its own random stream, so it does not depend on how the others proceed."""
    mix = _Mix(workload, rng)
    for start_s in _starts(workload, duration_s, rng):
        own = Random(rng.random())
        endless = isinstance(workload.arrivals, Closed)
        yield Session(start_s, mix.turns(own, endless))


def _starts(workload: Generated, duration_s: float, rng: Random) -> Iterator[float]:
    match workload.arrivals:
        case Poisson(rate_per_s=rate):
            now_s = rng.expovariate(rate)
            while now_s < duration_s:
                yield now_s
                now_s += rng.expovariate(rate)
        case Bursts() as bursts:
            yield from _bursts(bursts, duration_s, rng)
        case Closed(clients=clients, ramp_s=ramp_s):
            yield from sorted(rng.uniform(0, ramp_s) for _ in range(clients))


def _bursts(bursts: Bursts, duration_s: float, rng: Random) -> Iterator[float]:
    start_s, on = 0.0, False
    while start_s < duration_s:
        end_s = start_s + rng.expovariate(1 / (bursts.on_s if on else bursts.off_s))
        rate = bursts.on_rate_per_s if on else bursts.off_rate_per_s
        now_s = start_s + rng.expovariate(rate) if rate else end_s
        while now_s < min(end_s, duration_s):
            yield now_s
            now_s += rng.expovariate(rate)
        start_s, on = end_s, not on


class _Mix:
    """Draws the requests of a workload."""

    def __init__(self, workload: Generated, rng: Random) -> None:
        self._workload = workload
        self._numbers = count(1)
        """Numbers of the pieces."""
        self._criticalities = list(workload.criticality)
        self._weights = list(workload.criticality.values())
        prefixes, loras = workload.prefixes, workload.loras
        self._prefixes: list[Piece] = []
        if prefixes is not None:
            self._prefixes = [Piece(next(self._numbers), tokens(prefixes.tokens, rng)) for _ in range(prefixes.count)]
            self._prefix_ranks = Zipf(prefixes.count, prefixes.zipf)
        if loras is not None:
            self._lora_ranks = Zipf(loras.count, loras.zipf)

    def turns(self, rng: Random, endless: bool) -> Iterator[Turn]:
        """Yields the requests of a session, or of endless consecutive sessions."""
        while True:
            yield from self._session(rng)
            if not endless:
                return

    def _session(self, rng: Random) -> Iterator[Turn]:
        workload = self._workload
        prefix = self._prefix(rng)
        own = Piece(next(self._numbers), UNBOUNDED)
        content = Content((own,) if prefix is None else (prefix, own))
        lora = f"lora-{self._lora_ranks.draw(rng)}" if workload.loras is not None else None
        criticality = rng.choices(self._criticalities, self._weights)[0]
        prompt = (prefix.end_tokens if prefix is not None else 0) + tokens(workload.input_tokens, rng)
        turns = workload.turns
        turn_count = tokens(turns.count, rng) if turns is not None else 1
        gap_s = 0.0
        for _ in range(turn_count):
            output = tokens(workload.output_tokens, rng)
            if prompt + output > MAX_SEQUENCE_TOKENS:
                return
            limit = workload.max_tokens
            answer = output if limit is None else min(output, limit)
            expected = limit if limit is not None else output
            yield Turn(gap_s, content, prompt, answer, expected, lora, criticality)
            if turns is not None:
                gap_s = turns.think_s.draw(rng)
                prompt += answer + tokens(turns.input_tokens, rng)

    def _prefix(self, rng: Random) -> Piece | None:
        prefixes = self._workload.prefixes
        if prefixes is None or rng.random() >= prefixes.share:
            return None
        return self._prefixes[self._prefix_ranks.draw(rng)]
