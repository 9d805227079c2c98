"""The pickers that pools name, as Envoy's configuration speaks of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from picker.endpoints.datastore import MembershipChange
from picker.resources.names import ObjectName

_PREFIX = "inferencepicker"


@dataclass(frozen=True, slots=True)
class PickerName:
    """A port of a picker's Service. As text the name of its cluster, under which Envoy asks for its endpoints, too."""

    service: ObjectName
    port: int

    def __str__(self) -> str:
        return f"{_PREFIX}/{self.service.namespace}/{self.service.name}/{self.port}"

    @classmethod
    def of_text(cls, text: str) -> "PickerName | None":
        """None for the name of something else."""
        match text.split("/"):
            case [prefix, namespace, name, port] if prefix == _PREFIX and port.isdigit():
                return cls(ObjectName(namespace, name), int(port))
            case _:
                return None


@dataclass(frozen=True, slots=True)
class PickerPlaces:
    """Where the replicas of a picker are."""

    addresses: tuple[str, ...]
    """`ip:port` of those that are ready."""
    by_tls: bool
    """Whether they are to be asked by TLS."""
    tls_addresses: frozenset[str] | None = None
    """Those of `addresses` that are asked by TLS while replicas differ; None where `by_tls` holds for all."""
    in_turn: bool = False
    """Whether only the first that takes connections is to be asked, and the others stand by."""

    @property
    def asked_by_tls(self) -> frozenset[str]:
        """The addresses that are asked by TLS."""
        if self.tls_addresses is not None:
            return self.tls_addresses
        return frozenset(self.addresses) if self.by_tls else frozenset()


class PickerUnknown(Exception):
    """The API server has not said yet what a picker's Service is; the message names it."""


class Pickers(Protocol):
    """What is known of the pickers that the pools name."""

    def places(self, picker: PickerName) -> PickerPlaces | None:
        """None of one that nothing is known of (yet)."""
        ...

    async def is_own_picker(self, service: ObjectName) -> bool:
        """Whether it is this project's picker, with which more is agreed than the protocol says. Raises
        PickerUnknown."""
        ...

    def listen(self, listener: Callable[[MembershipChange], None]) -> None:
        """Call `listener` with the names whose places are others now, from now on."""
        ...
