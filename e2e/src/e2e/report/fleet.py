"""The servers of the report, as `ci/nightly/kind` has them in pods."""

from e2e.local_gateway import MockFleet

FLEETS = (
    MockFleet(4, "a10", 1.5, ("--num-gpu-blocks-override", "640")),
    MockFleet(2, "l20", 1.5, ("--num-gpu-blocks-override", "3752")),
)
