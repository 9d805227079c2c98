"""The replicas of the pickers that pools name: the pods behind their Services, for Envoy.

Envoy gets the addresses of the pods rather than that of the Service. It can then choose replicas, eject one that does
not answer, and detect at once that there is none. A FailOpen pool continues without a pick in that case."""

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
from picker.xds.picker_ref import PickerName, PickerReplicas, PickerUnknown

PART_OF, OWN_PROJECT = "app.kubernetes.io/part-of", "inference-gateway"
"""Label of the Services of this project's pickers."""

SPREAD = "inference.networking.x-k8s.io/spread-pickers"
"""Annotation of this project's picker Service: `true` makes Envoy use all replicas, not only the first. A single
replica knows all requests in flight and all prompts sent. Several are needed only above the load of one."""

TLS_PORT_SUFFIX = "-tls"
"""Suffix of a port name for mixed Services. If a Service has a port NAME-tls beside its port NAME, its pods differ.
Pods with TLS name their port NAME-tls too, the others have no such port. Kubernetes puts the two kinds into separate
EndpointSlices. So each pod gets the right protocol during a rollout."""

PLAIN = "kubernetes.io/h2c"
"""`appProtocol` of a Service port whose pickers do not use TLS."""


@dataclass(frozen=True, slots=True)
class _Followed:
    """The informers of one picker's Service."""

    service: Informer[Service]
    slices: Informer[EndpointSlice]
    tasks: Sequence[asyncio.Task[None]]

    @property
    def is_listed(self) -> bool:
        return self.service.listed.is_set() and self.slices.listed.is_set()


class PickerEndpoints:
    """Implements `picker_ref.Pickers`: follows the Services passed to `follow`, and their EndpointSlices."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._tasks: asyncio.TaskGroup | None = None
        self._followed: dict[ObjectName, _Followed] = {}
        self._known: dict[PickerName, PickerReplicas] = {}
        self._pickers: set[PickerName] = set()
        self._listeners: list[Callable[[MembershipChange], None]] = []

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Must be called first. The watches run in `tasks`."""
        self._tasks = tasks

    def follow(self, pickers: Iterable[PickerName]) -> None:
        """Sets the pickers to follow."""
        self._pickers = set(pickers)
        services = {picker.service for picker in self._pickers}
        for removed in self._followed.keys() - services:
            for task in self._followed.pop(removed).tasks:
                task.cancel()
        for name in services - self._followed.keys():
            self._followed[name] = self._following(name)
        self._update()

    async def wait_until_listed(self, timeout_s: float) -> None:
        """Waits until all followed Services are listed, at most `timeout_s`. Pickers that are not listed yet are
        retried later."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for followed in list(self._followed.values()):
                    await followed.service.listed.wait()
                    await followed.slices.listed.wait()

    def replicas(self, picker: PickerName) -> PickerReplicas | None:
        return self._known.get(picker)

    async def is_own_picker(self, service: ObjectName) -> bool:
        if service not in self._followed:
            # Envoy Gateway may read a pool a moment earlier than this process.
            self._followed[service] = self._following(service)
        followed = self._followed[service]
        with suppress(TimeoutError):
            async with asyncio.timeout(LIST_S):
                await followed.service.listed.wait()
        if followed.service.age_s is None:
            # Without a successful list the owner of the picker is unknown.
            raise PickerUnknown(f"Service {service} is not known yet")
        known = followed.service.objects.get(service)
        return known is not None and _is_own_picker(known)

    def listen(self, listener: Callable[[MembershipChange], None]) -> None:
        self._listeners.append(listener)

    def _following(self, name: ObjectName) -> _Followed:
        service = Informer(self._client, SERVICE, read_service, name.namespace, name=name.name)
        slices = Informer(self._client, ENDPOINT_SLICE, read_slice, name.namespace, {SERVICE_OF_SLICE: name.name})
        assert self._tasks is not None
        tasks = [self._tasks.create_task(informer.follow(self._update)) for informer in (service, slices)]
        return _Followed(service, slices, tasks)

    def _update(self) -> None:
        """Recomputes the replicas, and notifies the listeners of changes."""
        previous = self._known
        resolved = {picker: self._resolve(picker) for picker in self._pickers}
        self._known = {picker: replicas for picker, replicas in resolved.items() if replicas is not None}
        changed = {
            picker for picker in previous.keys() | self._known.keys() if previous.get(picker) != self._known.get(picker)
        }
        if changed:
            change = MembershipChange((), (), frozenset(str(picker) for picker in changed))
            for listener in self._listeners:
                listener(change)

    def _resolve(self, picker: PickerName) -> PickerReplicas | None:
        """Returns None until the Service and its slices are listed."""
        followed = self._followed[picker.service]
        if not followed.is_listed:
            return None
        service = followed.service.objects.get(picker.service)
        port = (
            next((candidate for candidate in service.spec.ports if candidate.port == picker.port), None)
            if service
            else None
        )
        if service is None or port is None:
            return PickerReplicas((), False)
        slices = followed.slices.objects.values()
        addresses = {address for endpoint_slice in slices for address in _addresses(endpoint_slice, port)}
        tls_port_name = f"{port.name}{TLS_PORT_SUFFIX}"
        tls_addresses = None
        if any(service_port.name == tls_port_name for service_port in service.spec.ports):
            tls_addresses = frozenset(
                address
                for endpoint_slice in slices
                if any(slice_port.name == tls_port_name for slice_port in endpoint_slice.ports or ())
                for address in _addresses(endpoint_slice, port)
            )
        failover = _is_own_picker(service) and service.metadata.annotations.get(SPREAD) != "true"
        # The order must be the same in all replicas of the extension.
        return PickerReplicas(tuple(sorted(addresses)), port.app_protocol != PLAIN, tls_addresses, failover)


def _is_own_picker(service: Service) -> bool:
    return service.metadata.labels.get(PART_OF) == OWN_PROJECT


def _addresses(endpoint_slice: EndpointSlice, port: ServicePort) -> Iterable[str]:
    """Yields `ip:port` of the ready endpoints."""
    number = next(
        (slice_port.port for slice_port in endpoint_slice.ports or () if (slice_port.name or "") == port.name), None
    )
    if number is None:
        return
    for endpoint in endpoint_slice.endpoints or ():
        if endpoint.is_ready and endpoint.addresses:
            # An endpoint's addresses are fungible, and clients may use the first one, as the API says.
            yield join_address(endpoint.addresses[0], number)
