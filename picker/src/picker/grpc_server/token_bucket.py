"""A token bucket, for limits on what a peer sends."""


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

    def debt_s(self) -> float:
        """Seconds from the last use until nothing is owed: what was taken beyond the content is a debt."""
        return max(0.0, -self._left / self._per_s)

    def refund(self, amount: int) -> None:
        """Returns `amount` tokens to the bucket."""
        if self._left < self._size:
            self._left = min(self._size, self._left + amount)
