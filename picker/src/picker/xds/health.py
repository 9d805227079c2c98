"""The gRPC health service of grpcio servers, by grpcio-health-checking."""
# pyright: basic
# grpcio-health-checking has neither types nor stubs.

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from picker.protocol import HEALTH_SERVICES


class Health:
    """One health state, served on every server that it was added to. Starts as not ready."""

    def __init__(self) -> None:
        self._servicer = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue]

    def add_to(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def ready(self, is_ready: bool) -> None:
        """Sets the state to SERVING or NOT_SERVING. The service `liveness` is SERVING as long as the server answers."""
        serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        for service in HEALTH_SERVICES:
            await self._servicer.set(service, serving if is_ready or service == "liveness" else not_serving)
