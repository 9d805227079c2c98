"""Where the pickers are that the pools name: the pods behind their Services, for Envoy.

Their own addresses rather than the Services': Envoy asks the replicas that it is to ask, leaves one out that does not
answer, and knows at once when there is none, which is when a FailOpen pool goes on without a pick."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from lightkube import AsyncClient

from picker.addresses import join_address
from picker.controller.api_objects import (
    ENDPOINT_SLICE,
    SERVICE,
    SERVICE_OF_SLICE,
    EndpointSlice,
    Service,
    ServicePort,
    read_service,
    read_slice,
)
from picker.endpoints.datastore import MembershipChange
from picker.resources.names import ObjectName
from picker.sources.informer import LIST_S, Informer
from picker.xds.picker_ref import PickerName, PickerPlaces, PickerUnknown

PART_OF, OURS = "app.kubernetes.io/part-of", "inference-gateway"
"""The label of a Service whose pickers are this project's."""

SPREAD = "inference.networking.x-k8s.io/spread-pickers"
"""Annotation of our picker's Service: `true` has all replicas asked, not only the first. One knows all that is in
flight and what it has sent where, as each of several does not; several are for more than one can decide on."""

TLS_PORT_SUFFIX = "-tls"
"""A Service with a port NAME-tls beside its port NAME has pods that differ: those that listen by TLS name their port
so, and the others have no such port. Kubernetes puts the two kinds into EndpointSlices of their own. So each pod is
asked as it listens while a rollout changes that."""

PLAIN = "kubernetes.io/h2c"
"""`appProtocol` of a Service's port behind which pickers speak without TLS."""


@dataclass(frozen=True, slots=True)
class _Followed:
    """What is known of one picker's Service."""

    service: Informer[Service]
    slices: Informer[EndpointSlice]
    tasks: Sequence[asyncio.Task[None]]

    @property
    def is_listed(self) -> bool:
        return self.service.listed.is_set() and self.slices.listed.is_set()


class PickerEndpoints:
    """See `picker_ref.Pickers`. Follows the Services that it is told to, and their EndpointSlices."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._tasks: asyncio.TaskGroup | None = None
        self._followed: dict[ObjectName, _Followed] = {}
        self._known: dict[PickerName, PickerPlaces] = {}
        self._asked: set[PickerName] = set()
        self._listeners: list[Callable[[MembershipChange], None]] = []

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """To be called first. `tasks`: where the watches run."""
        self._tasks = tasks

    def follow(self, pickers: Iterable[PickerName]) -> None:
        """These from now on, and no others."""
        self._asked = set(pickers)
        services = {picker.service for picker in self._asked}
        for gone in self._followed.keys() - services:
            for task in self._followed.pop(gone).tasks:
                task.cancel()
        for name in services - self._followed.keys():
            self._followed[name] = self._following(name)
        self._look()

    async def wait_until_listed(self, timeout_s: float) -> None:
        """Until all Services that are followed now are known, or for `timeout_s`: the others are asked for again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for followed in list(self._followed.values()):
                    await followed.service.listed.wait()
                    await followed.slices.listed.wait()

    def places(self, picker: PickerName) -> PickerPlaces | None:
        return self._known.get(picker)

    async def is_own_picker(self, service: ObjectName) -> bool:
        if service not in self._followed:
            # Envoy Gateway has heard of a pool a moment before us.
            self._followed[service] = self._following(service)
        followed = self._followed[service]
        with suppress(TimeoutError):
            async with asyncio.timeout(LIST_S):
                await followed.service.listed.wait()
        if followed.service.age_s is None:
            # Nothing, or a refusal: either is no word on whose picker it is.
            raise PickerUnknown(f"Service {service} is not known yet")
        known = followed.service.objects.get(service)
        return known is not None and _is_own_picker(known)

    def listen(self, listener: Callable[[MembershipChange], None]) -> None:
        self._listeners.append(listener)

    def _following(self, name: ObjectName) -> _Followed:
        service = Informer(self._client, SERVICE, read_service, name.namespace, name=name.name)
        slices = Informer(self._client, ENDPOINT_SLICE, read_slice, name.namespace, {SERVICE_OF_SLICE: name.name})
        assert self._tasks is not None
        following = [self._tasks.create_task(copy.follow(self._look)) for copy in (service, slices)]
        return _Followed(service, slices, following)

    def _look(self) -> None:
        """Work out anew where the pickers are, and tell whose places are others now."""
        before = self._known
        found = {picker: self._found(picker) for picker in self._asked}
        self._known = {picker: places for picker, places in found.items() if places is not None}
        changed = {
            picker for picker in before.keys() | self._known.keys() if before.get(picker) != self._known.get(picker)
        }
        if changed:
            change = MembershipChange((), (), frozenset(str(picker) for picker in changed))
            for listener in self._listeners:
                listener(change)

    def _found(self, picker: PickerName) -> PickerPlaces | None:
        """None until the API server has told."""
        followed = self._followed[picker.service]
        if not followed.is_listed:
            return None
        service = followed.service.objects.get(picker.service)
        port = next((each for each in service.spec.ports if each.port == picker.port), None) if service else None
        if service is None or port is None:
            return PickerPlaces((), False)
        slices = followed.slices.objects.values()
        addresses = {each for one in slices for each in _addresses(one, port)}
        marked = f"{port.name}{TLS_PORT_SUFFIX}"
        tls_addresses = None
        if any(each.name == marked for each in service.spec.ports):
            tls_addresses = frozenset(
                each
                for one in slices
                if any(slice_port.name == marked for slice_port in one.ports or ())
                for each in _addresses(one, port)
            )
        in_turn = _is_own_picker(service) and service.metadata.annotations.get(SPREAD) != "true"
        # In an order that is the same for everybody who tells Envoys.
        return PickerPlaces(tuple(sorted(addresses)), port.app_protocol != PLAIN, tls_addresses, in_turn)


def _is_own_picker(service: Service) -> bool:
    return service.metadata.labels.get(PART_OF) == OURS


def _addresses(of: EndpointSlice, port: ServicePort) -> Iterable[str]:
    """`ip:port` of the endpoints that are ready."""
    number = next((each.port for each in of.ports or () if (each.name or "") == port.name), None)
    if number is None:
        return
    for endpoint in of.endpoints or ():
        if endpoint.is_ready and endpoint.addresses:
            # Of several addresses of one endpoint the first is the one to use, as the API says.
            yield join_address(endpoint.addresses[0], number)
