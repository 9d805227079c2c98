"""An ext_proc server that picks as the request says, and breaks the protocol in several ways.

The request's header `x-picker` chooses the behaviour, and `x-pick` the endpoint. The response has `x-served`, the
endpoint that Envoy reports, if the picker is asked about the response.
"""

from collections.abc import AsyncIterator, Iterator
from enum import StrEnum
from typing import Any, Self

import grpc
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from google.protobuf.struct_pb2 import Struct
from picker.protocol import DESTINATION, DESTINATION_SERVED, EXT_PROC_SERVICE, LB_NAMESPACE

CHUNK_BYTES = 62_000


class Behaviour(StrEnum):
    """What the picker replies. The first three are of pickers that exist; the others are failures."""

    STREAMS = "streams"
    """The headers' reply after the body, and then the body in parts: the endpoint picker protocol."""
    DEFERS = "defers"
    """The headers' reply after the body, and an empty reply to each part of it: upstream's lwepp v1.6.0."""
    IN_ORDER = "in-order"
    """A reply to the headers, and an empty one to each part of the body: the classic ext_proc."""

    BODY_FIRST = "body-first"
    WRONG_PHASE = "wrong-phase"
    ERROR_AT_HEADERS = "error-at-headers"
    ERROR_AT_BODY = "error-at-body"
    SILENT = "silent"

    REJECTS = "rejects"
    """An immediate response, which every mode allows."""


class PickerStandIn:
    """`async with` starts and stops the server, without TLS."""

    port: int

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server()
        handler = grpc.stream_stream_rpc_method_handler(
            _process, pb.ProcessingRequest.FromString, pb.ProcessingResponse.SerializeToString
        )
        service = grpc.method_handlers_generic_handler(EXT_PROC_SERVICE, {"Process": handler})
        self._server.add_generic_rpc_handlers((service,))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)


async def _process(
    messages: AsyncIterator[pb.ProcessingRequest], call: "grpc.aio.ServicerContext[Any, Any]"
) -> AsyncIterator[pb.ProcessingResponse]:
    behaviour, destination, body = Behaviour.STREAMS, "", b""
    async for message in messages:
        kind = str(message.WhichOneof("request"))
        if kind == "request_headers":
            headers = {header.key: header.raw_value.decode() for header in message.request_headers.headers.headers}
            behaviour, destination = Behaviour(headers["x-picker"]), headers.get("x-pick", "")
        body += message.request_body.body
        if behaviour is Behaviour.ERROR_AT_HEADERS or (behaviour, kind) == (Behaviour.ERROR_AT_BODY, "request_body"):
            await call.abort(grpc.StatusCode.INTERNAL, 'the picker\'s "reason"')
        for reply in _replies(behaviour, kind, message, destination, body):
            yield reply


def _replies(
    behaviour: Behaviour, kind: str, message: pb.ProcessingRequest, destination: str, body: bytes
) -> Iterator[pb.ProcessingResponse]:
    is_last = message.request_body.end_of_stream
    match (behaviour, kind):
        case (Behaviour.SILENT, _):
            return
        case (Behaviour.REJECTS, "request_headers"):
            yield pb.ProcessingResponse(immediate_response=pb.ImmediateResponse(status={"code": 429}, body=b"full"))  # pyright: ignore[reportArgumentType]
        case (Behaviour.WRONG_PHASE, "request_headers"):
            yield pb.ProcessingResponse(response_headers=pb.HeadersResponse())
        case (Behaviour.IN_ORDER, "request_headers"):
            yield _picked(destination)
        case (Behaviour.IN_ORDER | Behaviour.BODY_FIRST, "request_body"):
            yield _empty_body()
        case (Behaviour.DEFERS, "request_body"):
            if is_last:
                yield _picked(destination)
            yield _empty_body()
        case (Behaviour.STREAMS, "request_body") if is_last:
            yield _picked(destination)
            for start in range(0, len(body), CHUNK_BYTES):
                yield pb.ProcessingResponse(
                    request_body=_streamed(body[start : start + CHUNK_BYTES], start + CHUNK_BYTES >= len(body))
                )
        case (_, "response_headers"):
            reported = message.metadata_context.filter_metadata[LB_NAMESPACE].fields[DESTINATION_SERVED]
            changes = _set_header("x-served", reported.string_value)
            yield pb.ProcessingResponse(response_headers=pb.HeadersResponse(response=changes))
        case (Behaviour.STREAMS, "response_body"):
            part = message.response_body
            yield pb.ProcessingResponse(response_body=_streamed(part.body, part.end_of_stream))
        case _:
            pass


def _picked(destination: str) -> pb.ProcessingResponse:
    metadata = Struct()
    metadata.update({LB_NAMESPACE: {DESTINATION: destination}})
    changes = _set_header(DESTINATION, destination)
    return pb.ProcessingResponse(request_headers=pb.HeadersResponse(response=changes), dynamic_metadata=metadata)


def _set_header(name: str, value: str) -> pb.CommonResponse:
    option = HeaderValueOption(header=HeaderValue(key=name, raw_value=value.encode()))
    return pb.CommonResponse(header_mutation=pb.HeaderMutation(set_headers=[option]))


def _empty_body() -> pb.ProcessingResponse:
    return pb.ProcessingResponse(request_body=pb.BodyResponse(response=pb.CommonResponse()))


def _streamed(body: bytes, is_last: bool) -> pb.BodyResponse:
    mutation = pb.BodyMutation(streamed_response=pb.StreamedBodyResponse(body=body, end_of_stream=is_last))
    return pb.BodyResponse(response=pb.CommonResponse(body_mutation=mutation))
