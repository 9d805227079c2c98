"""Limits on frames that are cheap to send and costly to handle: rapid reset, empty frames, PING and SETTINGS floods."""

from picker.grpc_server.http2 import limits
from picker.grpc_server.http2.events import ConnectionFailure
from picker.grpc_server.http2.frames import ErrorCode
from picker.grpc_server.token_bucket import TokenBucket


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
