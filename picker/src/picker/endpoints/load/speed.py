"""The speed of an endpoint, estimated from times to first token and from the ends of responses."""

DECAY = 0.99
"""Of the sums, per first token: about the last 100 count. With fewer, single ones decide. With more, a replica that
has become slow is found too late."""

PRIOR_FIRST_TOKENS = 3.0
"""First tokens at the fleet's mean speed that an endpoint starts with. Judgement: the first ones often wait for a
server's warm-up."""

HALF_LIFE_S = 15.0
"""An estimate counts half after this time without a response, so that a slow endpoint is tried again and a fast one is
not overrun. Any endpoint in use answers much more often than this."""

MAX_SLOWDOWN = 4.0
"""Upper limit on an endpoint's slowness relative to the fleet."""

MIN_SLOWDOWN = 1 / 2
"""Lower limit on an endpoint's slowness: at most twice as fast as the fleet. The server itself reports its times."""

MAX_DEVIATION = 16.0
"""Limit on a time to first token and on a predicted one, in multiples of the mean, and on the factor by which a time is
shorter than expected. A prediction that is wrong by a factor of a thousand (a picture, a prompt of escapes) must change
the estimate little, and so must a response that hung."""

PRIOR_ERROR = 0.2
"""Standard error of the prior first tokens' times, as a share. The first responses show little of how much later ones
vary."""

MIN_STANDARD_ERRORS = 3.0
"""Standard errors from which an endpoint's difference from the fleet counts; the larger the difference, the more of it.
Two would do if responses were independent. Responses near in time wait for the same step, the same network and the same
other processes of the machine."""


class SpeedEstimate:
    """Times to first token relative to the predicted ones, from decaying sums of both."""

    __slots__ = (
        "_first_tokens",
        "_learned_s",
        "_predicted_s",
        "_product_s2",
        "_seconds",
        "_square_predicted_s2",
        "_square_s2",
        "slowness",
    )

    def __init__(self) -> None:
        self.slowness: float | None = None
        """Time to first token per predicted second. The prediction is that of the pool's step time
        (`predicted_first_token_s`). None before the first response."""
        self._first_tokens = self._seconds = self._predicted_s = 0.0
        self._square_s2 = self._square_predicted_s2 = self._product_s2 = 0.0
        self._learned_s = 0.0

    def learn(self, predicted_s: float, seconds: float, now_s: float, answers: int = 1) -> None:
        """Add first tokens of so many `answers`: the sum of their times, and the sum of the times predicted when their
        requests were sent."""
        predicted_s, seconds = self._bounded(predicted_s, seconds, answers)
        kept = DECAY**answers * self._freshness(now_s)
        self._learned_s = now_s
        self._first_tokens = kept * self._first_tokens + answers
        self._seconds = kept * self._seconds + seconds
        self._predicted_s = kept * self._predicted_s + predicted_s
        self._square_s2 = kept * kept * self._square_s2 + seconds * seconds
        self._square_predicted_s2 = kept * kept * self._square_predicted_s2 + predicted_s * predicted_s
        self._product_s2 = kept * kept * self._product_s2 + seconds * predicted_s
        self.slowness = self._seconds / self._predicted_s if self._predicted_s else None

    def _bounded(self, predicted_s: float, seconds: float, answers: int) -> tuple[float, float]:
        slowness = self.slowness
        if not slowness or not predicted_s:
            return predicted_s, seconds
        most_s = MAX_DEVIATION * answers * self._predicted_s / self._first_tokens
        if predicted_s > most_s:
            seconds *= most_s / predicted_s
            predicted_s = most_s
        if seconds < slowness * predicted_s / MAX_DEVIATION:
            predicted_s = MAX_DEVIATION * seconds / slowness
        return predicted_s, min(seconds, slowness * most_s)

    def decayed_totals(self, now_s: float) -> tuple[float, float]:
        """Sums of seconds and of predicted seconds, decayed to `now_s`."""
        freshness = self._freshness(now_s)
        return freshness * self._seconds, freshness * self._predicted_s

    def slowdown_vs(self, fleet_slowness: float, now_s: float) -> float:
        """Slowness relative to the fleet. 1 before the first response, and where the difference may be chance.

        The variance is that of a ratio of sums (Cochran, Sampling Techniques, 1977, 6.4). The part of a difference
        beyond it is shrunk as by James and Stein (1961), whose estimate is 0 where the noise explains all.
        """
        own = self.slowness
        if own is None:
            return 1.0
        freshness = self._freshness(now_s)
        prior_s = PRIOR_FIRST_TOKENS * self._predicted_s / self._first_tokens
        predicted_s = freshness * self._predicted_s + prior_s
        slowness = (freshness * self._seconds / fleet_slowness + prior_s) / predicted_s
        scatter_s2 = self._square_s2 - 2.0 * own * self._product_s2 + own * own * self._square_predicted_s2
        scatter_s2 *= freshness * freshness / (fleet_slowness * fleet_slowness)
        error = (scatter_s2 + (PRIOR_ERROR * prior_s) ** 2) / (predicted_s * predicted_s)
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
