"""The servers of the report."""

from e2e.local_gateway import MockFleet

_TIME_SCALE = 1.25
"""As fast as two busy cores stream without being what limits the servers."""

FLEETS = (
    MockFleet(4, "a10", _TIME_SCALE, ("--num-gpu-blocks-override=320",)),
    MockFleet(2, "l20", _TIME_SCALE, ("--num-gpu-blocks-override=1876",)),
)
"""Those that `ci/nightly/kind` has in pods: two cards, with caches as far apart as theirs and so small that a load
which two cores stream fills them."""
