"""The order in which the test modules run.

All modules share one cluster and one release, so their order matters: `conftest.py` sorts the tests by it. A phase may
rely on what the phases before it leave.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phase:
    """Test modules that start from the same state of the release."""

    name: str
    leaves: str
    """State of the release after the phase."""
    modules: Sequence[str]


PHASES = (
    Phase("installation", "The release as it was installed.", ("test_install",)),
    Phase(
        "traffic",
        "The release as it was installed. Each test deletes the objects that it adds.",
        ("test_requests", "test_pools", "test_model_routing", "test_conformance", "test_statuses"),
    ),
    Phase(
        "operation",
        "The release as it was installed. Policies and Prometheus are deleted.",
        ("test_access", "test_security_examples", "test_external_providers", "test_prometheus"),
    ),
    Phase(
        "failures",
        "The release with restarted pods. Replica counts and the pool's failure mode are set back.",
        ("test_failures",),
    ),
    Phase("models", "The release with the tutorial's model again.", ("test_models",)),
    Phase("lifecycle", "No release: the last test uninstalls it.", ("test_lifecycle",)),
)

ORDER = tuple(module for phase in PHASES for module in phase.modules)
