"""How fast an endpoint works, learned from how long first tokens take and when answers end."""

MEMORY = 0.99
"""Share of what was learned that a first token leaves: the last 100 or so count. Fewer are at the mercy of single
ones, more see a replica that has become slow too late."""

PRIOR_TOKENS = 4000.0
"""Work at the fleet's own pace that an endpoint is taken to have done before its first answer: some three prompts."""

HALF_LIFE_S = 15.0
"""What was learned of an endpoint counts half when it has given no answer for this long: one that looked slow is tried
again, and one that looked fast is not overrun for it. One that serves anything at all answers far more often."""

MAX_SLOWDOWN = 4.0
"""However slow an endpoint looks, it is taken to be at most this many times as slow as the fleet."""

MIN_SLOWDOWN = 1 / 2
"""However fast an endpoint looks, it is taken to be at most twice as fast as the fleet: its times are its own word."""

MOST_MOVED = 16.0
"""A first token that took this many times longer or shorter than the endpoint's pace lets expect counts as this many
times: of one whose work was estimated wrong by a factor of a thousand (a picture, a prompt of escapes) little is
learned."""

MOST_TOKENS = 32_768.0
"""Work of one answer that counts at most: an answer has no more weight than a prompt of this length."""

PRIOR_SCATTER = 0.2
"""Of that prior work's time, as a share: what it may be off by. The first answers tell little of how much the next ones
will differ."""

MIN_STANDARD_ERRORS = 3.0
"""Standard errors by which an endpoint differs from the fleet before the difference counts at all; of larger ones the
more counts the larger they are. Two would do if answers were independent: those that are near in time had to wait
for the same step, the same network and the same neighbours on the machine."""


class SpeedEstimate:
    """Time to first token against the work that was ahead of it, both summed with a memory that fades."""

    __slots__ = (
        "_learned_s",
        "_seconds",
        "_seconds_tokens",
        "_square_s",
        "_square_tokens",
        "_tokens",
        "seconds_per_token",
    )

    def __init__(self) -> None:
        self.seconds_per_token: float | None = None
        """None before the first answer."""
        self._seconds = self._tokens = 0.0
        self._square_s = self._square_tokens = self._seconds_tokens = 0.0
        self._learned_s = 0.0

    def learn(self, work_tokens: float, seconds: float, now_s: float, answers: int = 1) -> None:
        """First tokens of so many `answers` are out: sums of the time that they took, and of the work that was ahead of
        them when their requests were sent."""
        work_tokens, seconds = self._bounded(work_tokens, seconds, answers)
        kept = MEMORY**answers * self._freshness(now_s)
        self._learned_s = now_s
        self._seconds = kept * self._seconds + seconds
        self._tokens = kept * self._tokens + work_tokens
        self._square_s = kept * kept * self._square_s + seconds * seconds
        self._square_tokens = kept * kept * self._square_tokens + work_tokens * work_tokens
        self._seconds_tokens = kept * kept * self._seconds_tokens + seconds * work_tokens
        self.seconds_per_token = self._seconds / self._tokens if self._tokens else None

    def _bounded(self, work_tokens: float, seconds: float, answers: int) -> tuple[float, float]:
        pace = self.seconds_per_token
        if pace and work_tokens:
            expected_s = pace * work_tokens
            if seconds > MOST_MOVED * expected_s:
                seconds = MOST_MOVED * expected_s
            elif seconds < expected_s / MOST_MOVED:
                work_tokens = MOST_MOVED * seconds / pace
        if work_tokens > MOST_TOKENS * answers:
            share = MOST_TOKENS * answers / work_tokens
            work_tokens, seconds = share * work_tokens, share * seconds
        return work_tokens, seconds

    def decayed_totals(self, now_s: float) -> tuple[float, float]:
        """Seconds and tokens, as much as they still count."""
        freshness = self._freshness(now_s)
        return freshness * self._seconds, freshness * self._tokens

    def slowdown_vs(self, fleet_s_per_token: float, now_s: float) -> float:
        """How many times as slow as a fleet this is; 1 before the first answer, and where the difference may be chance.

        The variance is that of a ratio of sums (Cochran, Sampling Techniques, 1977, 6.4), and what exceeds it is
        shrunk as by James and Stein (1961), whose estimate is 0 where the noise explains all."""
        freshness = self._freshness(now_s)
        seconds, tokens = freshness * self._seconds / fleet_s_per_token, freshness * self._tokens + PRIOR_TOKENS
        slowness = (seconds + PRIOR_TOKENS) / tokens
        own = fleet_s_per_token if self.seconds_per_token is None else self.seconds_per_token
        scatter = self._square_s - 2.0 * own * self._seconds_tokens + own * own * self._square_tokens
        scatter_tokens = freshness * freshness * scatter / (fleet_s_per_token * fleet_s_per_token)
        error = (scatter_tokens + (PRIOR_SCATTER * PRIOR_TOKENS) ** 2) / (tokens * tokens)
        excess = slowness - 1.0
        noise = MIN_STANDARD_ERRORS * MIN_STANDARD_ERRORS * error
        if excess * excess <= noise:
            return 1.0
        slowness = 1.0 + excess * (1.0 - noise / (excess * excess))
        if slowness > MAX_SLOWDOWN:
            return MAX_SLOWDOWN
        return slowness if slowness > MIN_SLOWDOWN else MIN_SLOWDOWN

    def _freshness(self, now_s: float) -> float:
        return 0.5 ** ((now_s - self._learned_s) / HALF_LIFE_S)


UNLEARNED_INTERVAL_S = 0.5
"""Between two answers' ends, before any was seen: an A10 in the middle of its load."""

LEAST_INTERVAL_S = 0.01
"""Below it the bound on one gap goes no further: after a burst of ends the interval can be near 0."""


class CompletionRate:
    """How often an endpoint is done with a request: what waits there goes ahead as often."""

    __slots__ = ("_ended_s", "interval_s")

    KEPT = 0.95
    MOST_MOVED = 10.0
    """Times the interval so far that one gap counts at most: a single long answer must not stop admission."""

    def __init__(self) -> None:
        self.interval_s = UNLEARNED_INTERVAL_S
        """Between two answers' ends, seconds, while there was something to do all the time between."""
        self._ended_s: float | None = None

    def ended(self, now_s: float, left: int, sequences: int = 1) -> None:
        """A request of so many `sequences` has ended, and `left` others are there."""
        if self._ended_s is not None:
            gap_s = min((now_s - self._ended_s) / sequences, self.MOST_MOVED * max(self.interval_s, LEAST_INTERVAL_S))
            self.interval_s = self.KEPT * self.interval_s + (1 - self.KEPT) * gap_s
        # An idle time until the next one comes says nothing of how fast it works.
        self._ended_s = now_s if left else None
