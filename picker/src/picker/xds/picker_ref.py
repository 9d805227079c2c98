"""The pickers that pools refer to, and their replicas."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from picker.endpoints.datastore import MembershipChange
from picker.resources.names import ObjectName

_PREFIX = "inferencepicker"


@dataclass(frozen=True, slots=True)
class PickerName:
    """A port of a picker's Service. Its text is the name of its cluster, and its EDS name."""

    service: ObjectName
    port: int

    def __str__(self) -> str:
        return f"{_PREFIX}/{self.service.namespace}/{self.service.name}/{self.port}"

    @classmethod
    def of_text(cls, text: str) -> "PickerName | None":
        """Parses the text; returns None if it is another kind of name."""
        match text.split("/"):
            case [prefix, namespace, name, port] if prefix == _PREFIX and port.isdigit():
                return cls(ObjectName(namespace, name), int(port))
            case _:
                return None


@dataclass(frozen=True, slots=True)
class PickerReplicas:
    """The replicas of a picker."""

    addresses: tuple[str, ...]
    """`ip:port` of the ready replicas."""
    uses_tls: bool
    """Whether Envoy connects to them by TLS."""
    tls_addresses: frozenset[str] | None = None
    """The addresses with TLS, if replicas differ during a change; None if `uses_tls` applies to all."""
    failover: bool = False
    """Whether Envoy uses only the first replica that accepts connections; the others are standbys."""

    @property
    def with_tls(self) -> frozenset[str]:
        """The addresses that Envoy connects to by TLS."""
        if self.tls_addresses is not None:
            return self.tls_addresses
        return frozenset(self.addresses) if self.uses_tls else frozenset()


class PickerUnknown(Exception):
    """The Service of a picker has not been read from the API server yet; the message names it."""


class Pickers(Protocol):
    """The replicas of the pickers that pools refer to."""

    def replicas(self, picker: PickerName) -> PickerReplicas | None:
        """Returns the replicas of `picker`; None if they are not known (yet)."""
        ...

    async def is_own_picker(self, service: ObjectName) -> bool:
        """Returns whether `service` is this project's picker, which supports more than the protocol. Raises
        PickerUnknown."""
        ...

    def listen(self, listener: Callable[[MembershipChange], None]) -> None:
        """Registers `listener`; it is called with the names whose replicas have changed."""
        ...
