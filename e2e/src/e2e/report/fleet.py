"""The model servers of the report."""

from e2e.local_gateway import MockFleet

_TIME_SCALE = 1.25
"""Judgement: the highest speed at which two busy cores do not limit the servers."""

FLEETS = (
    MockFleet(4, "a10", _TIME_SCALE, ("--num-gpu-blocks-override=320",)),
    MockFleet(2, "l20", _TIME_SCALE, ("--num-gpu-blocks-override=1876",)),
)
"""The fleet of `ci/nightly/kind`. The caches have the two cards' ratio, and are small: a load that two cores can stream
fills them."""
