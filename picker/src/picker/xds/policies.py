"""Which timeouts hold where: HTTPRoute's own, and those of BackendTrafficPolicies."""

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
    """Of the one policy that holds for `route` behind the listener `section` of `gateway`: one for the route stands
    above one for the listener, and that above one for the whole Gateway. Of equals the older stands, then the first
    by name."""
    ranked = [
        (rank, age_rank(policy), policy.name, policy.spec.timeout)
        for policy in policies
        if (rank := _rank(policy, route, gateway, section)) is not None
    ]
    return min(ranked, key=lambda entry: entry[:3])[3] if ranked else NO_POLICY


def _rank(policy: BackendTrafficPolicy, route: HTTPRoute, gateway: Gateway, section: str) -> int | None:
    """How close the policy is to the route, 0 the closest; None for a policy for others."""
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
    """Of the connections to a cluster's endpoints; None leaves the cluster's own."""

    connect_s: float | None = None
    idle_s: float | None = None
    max_duration_s: float | None = None

    @classmethod
    def shortest(cls, policies: Iterable[PolicyTimeout]) -> "ConnectionTimeouts":
        """A cluster has one set of connections, whichever routes lead to it: the strictest policy holds."""
        found = list(policies)
        return cls(
            connect_s=_least(each.tcp.connect_timeout for each in found),
            idle_s=_least(each.http.connection_idle_timeout for each in found),
            max_duration_s=_least(each.http.max_connection_duration for each in found),
        )


NO_TIMEOUTS = ConnectionTimeouts()


def _least(values: Iterable[float | None]) -> float | None:
    # 0 is the policy's way to say "none".
    return min((value for value in values if value), default=None)
