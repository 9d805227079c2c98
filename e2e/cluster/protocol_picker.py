"""An endpoint picker that implements the protocol without code of this project. It runs in a pod.

The pod uses the picker's image for its packages. Like upstream's picker, it serves TLS with a self-signed certificate.
It responds to the request headers only after it has the body. It reads the response, too.

The client chooses the endpoint in the header `x-pick`: `ip:port`, several separated by commas. The response's header
`x-served` names the endpoint that served, as the gateway reported it.
"""

import asyncio
import datetime
from collections.abc import AsyncIterator, Iterator

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    BodyMutation,
    BodyResponse,
    CommonResponse,
    HeaderMutation,
    HeadersResponse,
    HttpBody,
    ProcessingRequest,
    ProcessingResponse,
    StreamedBodyResponse,
    TrailersResponse,
)
from google.protobuf.struct_pb2 import Struct

PICKED, SERVED = "x-gateway-destination-endpoint", "x-gateway-destination-endpoint-served"
CHUNK = 62_000
"""Maximum bytes of a body in one message."""


async def process(requests: AsyncIterator[ProcessingRequest], _: object) -> AsyncIterator[ProcessingResponse]:
    destination, body = "", b""
    async for request in requests:
        match request.WhichOneof("request"):
            case "request_headers":
                headers = {header.key: header.raw_value.decode() for header in request.request_headers.headers.headers}
                destination = headers.get("x-pick", "")
                if request.request_headers.end_of_stream:
                    yield picked(destination)
            case "request_body":
                body += request.request_body.body
                if request.request_body.end_of_stream:
                    yield picked(destination)
                    for chunk in chunks(body):
                        yield ProcessingResponse(request_body=BodyResponse(response=chunk))
            case "response_headers":
                reported = request.metadata_context.filter_metadata["envoy.lb"]
                served = reported.fields[SERVED].string_value
                yield ProcessingResponse(response_headers=HeadersResponse(response=with_header("x-served", served)))
            case "response_body":
                for chunk in response_chunks(request.response_body):
                    yield ProcessingResponse(response_body=BodyResponse(response=chunk))
            case "request_trailers":
                yield ProcessingResponse(request_trailers=TrailersResponse())
            case _:
                yield ProcessingResponse(response_trailers=TrailersResponse())


def picked(destination: str) -> ProcessingResponse:
    metadata = Struct()
    metadata.update({"envoy.lb": {PICKED: destination}})
    headers = HeadersResponse(response=with_header(PICKED, destination))
    headers.response.clear_route_cache = True
    return ProcessingResponse(request_headers=headers, dynamic_metadata=metadata)


def with_header(name: str, value: str) -> CommonResponse:
    option = HeaderValueOption(header=HeaderValue(key=name, raw_value=value.encode()))
    return CommonResponse(header_mutation=HeaderMutation(set_headers=[option]))


def chunks(body: bytes) -> Iterator[CommonResponse]:
    for start in range(0, max(1, len(body)), CHUNK):
        yield streamed(body[start : start + CHUNK], start + CHUNK >= len(body))


def response_chunks(body: HttpBody) -> Iterator[CommonResponse]:
    for chunk in chunks(body.body):
        chunk.body_mutation.streamed_response.end_of_stream &= body.end_of_stream
        yield chunk


def streamed(body: bytes, is_last: bool) -> CommonResponse:
    response = StreamedBodyResponse(body=body, end_of_stream=is_last)
    return CommonResponse(body_mutation=BodyMutation(streamed_response=response))


def own_credentials() -> grpc.ServerCredentials:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A picker")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return grpc.ssl_server_credentials([(private, certificate)])


async def main() -> None:
    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(
        process, ProcessingRequest.FromString, ProcessingResponse.SerializeToString
    )
    service = grpc.method_handlers_generic_handler("envoy.service.ext_proc.v3.ExternalProcessor", {"Process": handler})
    server.add_generic_rpc_handlers((service,))
    server.add_secure_port("0.0.0.0:9002", own_credentials())
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
