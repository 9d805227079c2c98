"""Limits on frames that are cheap to send and costly to handle: rapid reset, empty frames, PING and SETTINGS floods."""

from picker.grpc_server.http2 import limits
from picker.grpc_server.http2.events import ConnectionFailure
from picker.grpc_server.http2.frames import ErrorCode


class TokenBucket:
    """A token bucket of `size` tokens, refilled at `per_s`. The time comes with each use, from any monotonic clock."""

    __slots__ = ("_at_s", "_left", "_per_s", "_size")

    def __init__(self, size: int, per_s: float) -> None:
        self._size = size
        self._per_s = per_s
        self._left = float(size)
        self._at_s = 0.0

    def take(self, now_s: float, amount: int = 1) -> bool:
        """Takes `amount` tokens; returns False if there were fewer."""
        if self._left == self._size:
            self._at_s = now_s
        elif self._left < amount:
            self._left = min(self._size, self._left + (now_s - self._at_s) * self._per_s)
            self._at_s = now_s
        self._left -= amount
        return self._left >= 0

    def refund(self, amount: int) -> None:
        """Returns `amount` tokens to the bucket."""
        if self._left < self._size:
            self._left = min(self._size, self._left + amount)


class AbuseBudget:
    """The budget of one peer. Set `now_s` before each use of the other methods."""

    __slots__ = ("_frames", "_resets", "now_s")

    def __init__(self) -> None:
        self.now_s = 0.0
        self._frames = TokenBucket(limits.EMPTY_FRAME_BUDGET, limits.EMPTY_FRAMES_PER_S)
        self._resets = TokenBucket(limits.RESET_BUDGET, limits.RESETS_PER_S)

    def useful(self, count: int) -> None:
        """Counts `count` frames of either side that carried something."""
        self._frames.refund(limits.EMPTY_FRAMES_REFUNDED * count)

    def empty_frame(self, cost: int = 1) -> None:
        """Counts a frame that carried nothing. Raises ConnectionFailure if there were too many."""
        if not self._frames.take(self.now_s, cost):
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "too many frames without content (flood)")

    def wasted_request(self) -> None:
        """Counts a request that was reset early or was malformed. Raises ConnectionFailure if there were too many."""
        if not self._resets.take(self.now_s):
            raise ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "too many stream resets (rapid reset)")
