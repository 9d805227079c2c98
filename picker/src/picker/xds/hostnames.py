"""Host names of listeners and routes; both may begin with `*.`."""


def common_hostname(route: str, listener: str | None) -> str | None:
    """Returns the more specific name if one covers the other, as the Gateway API defines it; None if they have nothing
    in common."""
    if listener is None or listener == route or _covers(listener, route):
        return route
    return listener if _covers(route, listener) else None


def _covers(wildcard: str, hostname: str) -> bool:
    """Returns whether `wildcard` covers `hostname`: `*.example.com` covers a.example.com, a.b.example.com and
    *.a.example.com, but not example.com."""
    return wildcard.startswith("*.") and hostname.endswith(wildcard[1:]) and hostname != wildcard
