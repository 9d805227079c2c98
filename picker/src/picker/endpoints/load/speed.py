"""The speed of an endpoint, estimated from times to first token and from the ends of responses."""

DECAY = 0.99
"""Of the sums, per first token: about the last 100 count. With fewer, single ones decide. With more, a replica that
has become slow is found too late."""

PRIOR_TOKENS = 4000.0
"""Work at the fleet's mean speed that an endpoint starts with: some three prompts."""

HALF_LIFE_S = 15.0
"""An estimate counts half after this time without a response, so that a slow endpoint is tried again and a fast one is
not overrun. Any endpoint in use answers much more often than this."""

MAX_SLOWDOWN = 4.0
"""Upper limit on an endpoint's slowness relative to the fleet."""

MIN_SLOWDOWN = 1 / 2
"""Lower limit on an endpoint's slowness: at most twice as fast as the fleet. The server itself reports its times."""

MAX_DEVIATION = 16.0
"""Limit on the factor between a time to first token and the expected one. Work that was estimated wrong by a factor of
a thousand (a picture, a prompt of escapes) must change the estimate little."""

MAX_WORK_TOKENS = 32_768.0
"""Limit on the work of one response: no response has more weight than a prompt of this length."""

PRIOR_ERROR = 0.2
"""Standard error of the prior work's time, as a share. The first responses show little of how much later ones vary."""

MIN_STANDARD_ERRORS = 3.0
"""Standard errors from which an endpoint's difference from the fleet counts; the larger the difference, the more of it.
Two would do if responses were independent. Responses near in time wait for the same step, the same network and the same
other processes of the machine."""


class SpeedEstimate:
    """Time to first token per token of the work ahead of it, from decaying sums of both."""

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
        """None before the first response."""
        self._seconds = self._tokens = 0.0
        self._square_s = self._square_tokens = self._seconds_tokens = 0.0
        self._learned_s = 0.0

    def learn(self, work_tokens: float, seconds: float, now_s: float, answers: int = 1) -> None:
        """Add first tokens of so many `answers`: the sum of their times, and the sum of the work ahead of them when
        their requests were sent."""
        work_tokens, seconds = self._bounded(work_tokens, seconds, answers)
        kept = DECAY**answers * self._freshness(now_s)
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
            if seconds > MAX_DEVIATION * expected_s:
                seconds = MAX_DEVIATION * expected_s
            elif seconds < expected_s / MAX_DEVIATION:
                work_tokens = MAX_DEVIATION * seconds / pace
        if work_tokens > MAX_WORK_TOKENS * answers:
            share = MAX_WORK_TOKENS * answers / work_tokens
            work_tokens, seconds = share * work_tokens, share * seconds
        return work_tokens, seconds

    def decayed_totals(self, now_s: float) -> tuple[float, float]:
        """Sums of seconds and of tokens, decayed to `now_s`."""
        freshness = self._freshness(now_s)
        return freshness * self._seconds, freshness * self._tokens

    def slowdown_vs(self, fleet_s_per_token: float, now_s: float) -> float:
        """Slowness relative to the fleet. 1 before the first response, and where the difference may be chance.

        The variance is that of a ratio of sums (Cochran, Sampling Techniques, 1977, 6.4). The part of a difference
        beyond it is shrunk as by James and Stein (1961), whose estimate is 0 where the noise explains all.
        """
        freshness = self._freshness(now_s)
        seconds, tokens = freshness * self._seconds / fleet_s_per_token, freshness * self._tokens + PRIOR_TOKENS
        slowness = (seconds + PRIOR_TOKENS) / tokens
        own = fleet_s_per_token if self.seconds_per_token is None else self.seconds_per_token
        scatter = self._square_s - 2.0 * own * self._seconds_tokens + own * own * self._square_tokens
        scatter_tokens = freshness * freshness * scatter / (fleet_s_per_token * fleet_s_per_token)
        error = (scatter_tokens + (PRIOR_ERROR * PRIOR_TOKENS) ** 2) / (tokens * tokens)
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


INITIAL_INTERVAL_S = 0.5
"""Time between the ends of two responses until one is known: that of an A10 at half load."""

MIN_INTERVAL_S = 0.01
"""Lower limit on the interval that bounds one gap: after a burst of ends the interval can be near 0."""


class CompletionRate:
    """How often requests of an endpoint end. Queued requests start as often."""

    __slots__ = ("_ended_s", "interval_s")

    DECAY = 0.95
    MAX_GAP = 10.0
    """Limit on one gap, in multiples of the interval: a single long response must not stop admission."""

    def __init__(self) -> None:
        self.interval_s = INITIAL_INTERVAL_S
        """Mean seconds between the ends of two responses while requests are there."""
        self._ended_s: float | None = None

    def ended(self, now_s: float, left: int, sequences: int = 1) -> None:
        """A request of so many `sequences` has ended; `left` others are there."""
        if self._ended_s is not None:
            # Peers report ends late. A gap must be neither negative nor counted twice.
            now_s = max(now_s, self._ended_s)
            gap_s = min((now_s - self._ended_s) / sequences, self.MAX_GAP * max(self.interval_s, MIN_INTERVAL_S))
            self.interval_s = self.DECAY * self.interval_s + (1 - self.DECAY) * gap_s
        # Idle time does not show the speed.
        self._ended_s = now_s if left else None
