"""Who asks what, when."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from picker.resources.inference import Criticality

from simulator.workload.content import Content, Piece
from simulator.workload.distributions import Zipf, tokens
from simulator.workload.scenario import Bursts, Closed, Generated, Poisson

UNBOUNDED = 1 << 30
"""Where a piece ends that nothing follows."""

MAX_SEQUENCE_TOKENS = 60_000
"""Of a session that grows: what an A10's KV cache can hold with room to decode."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a client."""

    gap_s: float
    """After the client's last answer, or after its coming."""
    content: Content
    prompt_tokens: int
    output_tokens: int
    max_tokens: int
    """What the request says of its answer's length."""
    lora: str | None
    criticality: Criticality
    conversation: int | None = None
    """What the picker can tell of the conversation that this is a turn of."""
    continues: bool = False
    """Whether it is not the first."""


@dataclass(frozen=True, slots=True)
class Session:
    """A client: it comes, and asks one thing after the other."""

    start_s: float
    turns: Iterator[Turn]


class Numbers:
    """Numbers for pieces of text, each given once."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        self._last += 1
        return self._last


def sessions(workload: Generated, duration_s: float, rng: Random) -> Iterator[Session]:
    """In the order of their coming. Equal seeds give equal sessions, whatever is asked of the clients meanwhile: each
    has a stream of random numbers of its own."""
    numbers = Numbers()
    mix = _Mix(workload, numbers, rng)
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

    def __init__(self, workload: Generated, numbers: Numbers, rng: Random) -> None:
        self._workload = workload
        self._numbers = numbers
        self._criticalities = list(workload.criticality)
        self._weights = list(workload.criticality.values())
        prefixes, loras = workload.prefixes, workload.loras
        self._prefixes: list[Piece] = []
        if prefixes is not None:
            self._prefixes = [Piece(numbers.next(), tokens(prefixes.tokens, rng)) for _ in range(prefixes.count)]
            self._which = Zipf(prefixes.count, prefixes.zipf)
        if loras is not None:
            self._which_lora = Zipf(loras.count, loras.zipf)

    def turns(self, rng: Random, endless: bool) -> Iterator[Turn]:
        """A session's requests; `endless`: sessions one after the other."""
        while True:
            yield from self._session(rng)
            if not endless:
                return

    def _session(self, rng: Random) -> Iterator[Turn]:
        workload = self._workload
        prefix = self._prefix(rng)
        own = Piece(self._numbers.next(), UNBOUNDED)
        content = Content((own,) if prefix is None else (prefix, own))
        lora = f"lora-{self._which_lora.draw(rng)}" if workload.loras is not None else None
        criticality = rng.choices(self._criticalities, self._weights)[0]
        prompt = (prefix.end_tokens if prefix is not None else 0) + tokens(workload.input_tokens, rng)
        turns = workload.turns
        count = tokens(turns.count, rng) if turns is not None else 1
        gap_s = 0.0
        for index in range(count):
            output = tokens(workload.output_tokens, rng)
            if prompt + output > MAX_SEQUENCE_TOKENS:
                return
            limit = workload.max_tokens
            answer = output if limit is None else min(output, limit)
            expected = limit if limit is not None else output
            conversation = own.number if turns is not None else None
            yield Turn(gap_s, content, prompt, answer, expected, lora, criticality, conversation, continues=index > 0)
            if turns is not None:
                gap_s = turns.think_s.draw(rng)
                prompt += answer + tokens(turns.input_tokens, rng)

    def _prefix(self, rng: Random) -> Piece | None:
        prefixes = self._workload.prefixes
        if prefixes is None or rng.random() >= prefixes.share:
            return None
        return self._prefixes[self._which.draw(rng)]
