"""Consistent hashing: maps a key to the same endpoint in all replicas of the picker."""

from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter

from xxhash import xxh3_64_intdigest

from picker.endpoints.endpoint import Endpoint

VIRTUAL_NODES = 40
"""Points of each endpoint on the ring. The endpoints' shares differ by some 15 %. Load outweighs such differences."""


class HashRing:
    """A ring of the endpoints of the last lookup. If one joins or leaves, only its own share of the keys moves."""

    def __init__(self) -> None:
        self._endpoints: list[Endpoint] = []
        self._points: list[int] = []
        self._owners: list[Endpoint] = []

    def preferred_endpoint(self, key: int, endpoints: Sequence[Endpoint]) -> Endpoint:
        """The endpoint of `key` among `endpoints`, which must not be empty. Their order does not matter."""
        if self._endpoints != list(endpoints):
            self._build(endpoints)
        point = xxh3_64_intdigest(b"", key & _64_BITS)
        return self._owners[bisect_right(self._points, point) % len(self._owners)]

    def _build(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = list(endpoints)
        ring = [
            (xxh3_64_intdigest(endpoint.address.encode(), number), endpoint)
            for endpoint in endpoints
            for number in range(VIRTUAL_NODES)
        ]
        ring.sort(key=itemgetter(0))
        self._points = [point for point, _ in ring]
        self._owners = [endpoint for _, endpoint in ring]


_64_BITS = (1 << 64) - 1
