"""The timeouts that apply to a route and to a cluster: those of HTTPRoutes and of BackendTrafficPolicies."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from picker.resources.envoy_gateway import BackendTrafficPolicy, PolicyTimeout
from picker.resources.gateway_api import Gateway, HTTPRoute
from picker.resources.names import ObjectName
from picker.xds.route_matches import age_rank

NO_POLICY = PolicyTimeout()


def policy_timeouts(
    route: HTTPRoute, gateway: Gateway, section: str, policies: Sequence[BackendTrafficPolicy]
) -> PolicyTimeout:
    """Returns the timeouts of the one policy that applies to `route` on the listener `section` of `gateway`.

    A policy for the route precedes one for the listener, and that precedes one for the whole Gateway. Of equals the
    oldest applies, then the first by name."""
    ranked = [
        (rank, age_rank(policy), policy.name, policy.spec.timeout)
        for policy in policies
        if (rank := _rank(policy, route, gateway, section)) is not None
    ]
    return min(ranked, key=lambda entry: entry[:3])[3] if ranked else NO_POLICY


def _rank(policy: BackendTrafficPolicy, route: HTTPRoute, gateway: Gateway, section: str) -> int | None:
    """Returns how specific the policy is for the route, 0 the most; None if it does not apply."""
    ranks: list[int] = []
    for target in policy.spec.targets:
        name = ObjectName(policy.metadata.namespace, target.name)
        if target.kind == "HTTPRoute" and name == route.name:
            ranks.append(0)
        elif target.kind == "Gateway" and name == gateway.name and target.section_name in (None, section):
            ranks.append(1 if target.section_name is not None else 2)
    return min(ranks, default=None)


@dataclass(frozen=True, slots=True)
class ConnectionTimeouts:
    """Timeouts of the connections to a cluster's endpoints. None keeps the cluster's own."""

    connect_s: float | None = None
    idle_s: float | None = None
    max_duration_s: float | None = None

    @classmethod
    def shortest(cls, policies: Iterable[PolicyTimeout]) -> "ConnectionTimeouts":
        """Returns the strictest timeouts of `policies`, because all routes share the cluster's connections."""
        timeouts = list(policies)
        return cls(
            connect_s=_least(timeout.tcp.connect_timeout for timeout in timeouts),
            idle_s=_least(timeout.http.connection_idle_timeout for timeout in timeouts),
            max_duration_s=_least(timeout.http.max_connection_duration for timeout in timeouts),
        )


NO_TIMEOUTS = ConnectionTimeouts()


def _least(values: Iterable[float | None]) -> float | None:
    # In a policy, 0 means no timeout.
    return min((value for value in values if value), default=None)
