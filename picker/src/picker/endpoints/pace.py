"""How fast an endpoint works, learned from when its answers begin and end."""

MEMORY = 0.98
"""Share of what was learned that an answer leaves: the last 50 answers or so count. Fewer are at the mercy of single
ones, more see a replica that has become slow too late."""

PRIOR_TOKENS = 4000.0
"""Work at the fleet's own pace that an endpoint is taken to have done before its first answer: some three prompts."""

HALF_LIFE_S = 30.0
"""An endpoint that gave no answer for this long is taken to be twice as fast as it last was, and its next answer counts
twice as much: one that looked slow is tried again, and found to be better if it is. One that serves anything at all
answers far more often."""

MOST = 4.0
"""However slow an endpoint looks, it is taken to be at most this many times as slow as the fleet."""

LEAST = 1 / MOST


class Pace:
    """Time to first byte against the work that was ahead of it, both summed with a memory that fades."""

    __slots__ = ("_learned_s", "seconds", "seconds_per_token", "tokens")

    def __init__(self) -> None:
        self.seconds_per_token: float | None = None
        """None before the first answer."""
        self.seconds = 0.0
        self.tokens = 0.0
        """The two sums."""
        self._learned_s = 0.0

    def learn(self, work_tokens: float, seconds: float, now_s: float) -> None:
        """An answer began now, `seconds` after its request was sent, with `work_tokens` of work ahead of it then."""
        kept = MEMORY * 0.5 ** ((now_s - self._learned_s) / HALF_LIFE_S)
        self._learned_s = now_s
        self.seconds = kept * self.seconds + seconds
        self.tokens = kept * self.tokens + work_tokens
        self.seconds_per_token = self.seconds / self.tokens if self.tokens else None

    def against(self, fleet_s_per_token: float, now_s: float) -> float:
        """How many times as slow as a fleet this is; 1 before the first answer."""
        if not self.tokens or not fleet_s_per_token:
            return 1.0
        slowness = (self.seconds / fleet_s_per_token + PRIOR_TOKENS) / (self.tokens + PRIOR_TOKENS)
        slowness *= 0.5 ** ((now_s - self._learned_s) / HALF_LIFE_S)
        if slowness > MOST:
            return MOST
        return slowness if slowness > LEAST else LEAST


UNLEARNED_INTERVAL_S = 0.5
"""Between two answers' ends, before any was seen: an A10 in the middle of its load."""


class Drain:
    """How often an endpoint is done with a request: what waits there goes ahead as often."""

    __slots__ = ("_ended_s", "interval_s")

    KEPT = 0.95

    def __init__(self) -> None:
        self.interval_s = UNLEARNED_INTERVAL_S
        """Between two answers' ends, seconds, while there was something to do all the time between."""
        self._ended_s: float | None = None

    def ended(self, now_s: float, left: int) -> None:
        """A request has ended, and `left` others are there."""
        if self._ended_s is not None:
            self.interval_s = self.KEPT * self.interval_s + (1 - self.KEPT) * (now_s - self._ended_s)
        # An idle time until the next one comes says nothing of how fast it works.
        self._ended_s = now_s if left else None
