"""Converts between the messages of `messages` and the protobuf of `envoy.service.ext_proc.v3`."""

from collections.abc import Iterable, Mapping
from functools import lru_cache

import msgspec
from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy.type.v3 import http_status_pb2
from google.protobuf.message import DecodeError

from picker.extproc import fast_decode
from picker.extproc.headers import PREDICT_TTFT
from picker.extproc.messages import (
    Body,
    BodyMode,
    BodyReply,
    Changes,
    DuplexBodyReply,
    ExtendTimeout,
    HeadersReply,
    ImmediateReply,
    Incoming,
    ModeOverride,
    Modes,
    Phase,
    ProtocolViolation,
    Reply,
    RequestHeaders,
    ResponseHeaders,
    Trailers,
    TrailersReply,
)
from picker.protocol import (
    AGENT_SESSIONS,
    DESTINATION,
    DESTINATION_SERVED,
    DESTINATION_SUBSET,
    FAIRNESS_ID,
    LB_NAMESPACE,
    LEGACY_FAIRNESS_ID,
    LEGACY_MODEL_REWRITE,
    LEGACY_OBJECTIVE,
    LEGACY_SLO_TPOT_MS,
    LEGACY_SLO_TTFT_MS,
    MODEL_REWRITE,
    OBJECTIVE,
    SLO_TPOT_MS,
    SLO_TTFT_MS,
    SUBSET_NAMESPACE,
    TRACE_METADATA,
)

_NAMES = (
    ":method", ":path", ":status", "content-type", "content-length", "content-encoding", "connection", "upgrade",
    "x-request-id", TRACE_METADATA, OBJECTIVE, LEGACY_OBJECTIVE, FAIRNESS_ID, LEGACY_FAIRNESS_ID, MODEL_REWRITE,
    LEGACY_MODEL_REWRITE, SLO_TTFT_MS, LEGACY_SLO_TTFT_MS, SLO_TPOT_MS, LEGACY_SLO_TPOT_MS, *AGENT_SESSIONS,
    PREDICT_TTFT,
)  # fmt: skip
"""The headers that are read; the others are not copied."""


def kept_headers(*more: str) -> Mapping[bytes, str]:
    """The headers that `decode` keeps: those of `_NAMES`, and `more`. Their names by spelling: HTTP/2 and Envoy use
    lower case, some HTTP/1 proxies `Title-Case`."""
    return {spelling.encode(): name for name in (*_NAMES, *more) for spelling in (name, name.title())}


KEPT_HEADERS = kept_headers()

_Mode = processing_mode_pb2.ProcessingMode
_BODY_MODES = {number: BodyMode(name) for name, number in _Mode.BodySendMode.items()}
_OVERWRITE = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


class _Rest(msgspec.Struct, frozen=True, gc=False):
    """The part of a message besides its headers."""

    subset: frozenset[str] | None
    served: str | None
    modes: Modes | None


def decode(
    data: bytes, pool: str | None, trace: str | None = None, kept: Mapping[bytes, str] = KEPT_HEADERS
) -> Incoming:
    """Decodes a serialised `ProcessingRequest`. `trace` is the proxy's own `traceparent`, which replaces the client's.
    `kept`: see `kept_headers`. Raises ProtocolViolation for bytes that are no valid message."""
    match data[:1]:
        case fast_decode.REQUEST_BODY:
            if (body := fast_decode.read_body(data)) is not None:
                return body
        case fast_decode.REQUEST_HEADERS | fast_decode.RESPONSE_HEADERS as kind:
            read = fast_decode.read_headers(data, kept)
            rest = _rest(read.rest) if read is not None else None
            if read is not None and rest is not None:
                headers, end_of_stream = read.headers, read.end_of_stream
                if kind == fast_decode.RESPONSE_HEADERS:
                    return ResponseHeaders(headers, end_of_stream, rest.served)
                if trace is not None:
                    headers[TRACE_METADATA] = trace
                return RequestHeaders(headers, end_of_stream, rest.subset, rest.modes, pool)
        case _:
            pass
    return _decode(data, pool, trace, kept)


@lru_cache(maxsize=256)
def _rest(data: bytes) -> _Rest | None:
    """None where protobuf has to read the whole message: it is broken, or has another part. Cached, because few values
    occur: the proxy's configuration, the subsets of its routes, and the endpoints that answer."""
    try:
        rest = pb.ProcessingRequest.FromString(data)
        if rest.WhichOneof("request") is not None:
            return None
        return _Rest(_subset(rest), _served(rest), _modes(rest))
    except (DecodeError, ProtocolViolation):
        return None


def _decode(data: bytes, pool: str | None, trace: str | None, kept: Mapping[bytes, str]) -> Incoming:
    """Decodes any message with protobuf."""
    try:
        request = pb.ProcessingRequest.FromString(data)
    except DecodeError as error:
        raise ProtocolViolation("the message is not a ProcessingRequest") from error
    match request.WhichOneof("request"):
        case "request_headers":
            headers = _headers(request.request_headers, kept)
            if trace is not None:
                headers[TRACE_METADATA] = trace
            return RequestHeaders(
                headers,
                request.request_headers.end_of_stream,
                _subset(request),
                _modes(request),
                pool,
            )
        case "request_body":
            return Body(Phase.REQUEST, request.request_body.body, request.request_body.end_of_stream)
        case "request_trailers":
            return Trailers(Phase.REQUEST)
        case "response_headers":
            return ResponseHeaders(
                _headers(request.response_headers, kept), request.response_headers.end_of_stream, _served(request)
            )
        case "response_body":
            return Body(Phase.RESPONSE, request.response_body.body, request.response_body.end_of_stream)
        case "response_trailers":
            return Trailers(Phase.RESPONSE)
        case _:
            raise ProtocolViolation("the ProcessingRequest is empty")


def _headers(message: pb.HttpHeaders, kept: Mapping[bytes, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for header in message.headers.headers:
        name = kept.get(header.key.encode())
        if name is not None:
            raw = header.raw_value
            found[name] = raw.decode("latin-1") if raw else header.value
    return found


def _modes(request: pb.ProcessingRequest) -> Modes | None:
    if not request.HasField("protocol_config"):
        return None
    config = request.protocol_config
    try:
        return Modes(_BODY_MODES[config.request_body_mode], _BODY_MODES[config.response_body_mode])
    except KeyError as error:
        raise ProtocolViolation(f"unknown body mode {error}") from None


def _subset(request: pb.ProcessingRequest) -> frozenset[str] | None:
    """The proxy's subset hint: a list of `ip:port`. Some proxies send one string with commas."""
    namespaces = request.metadata_context.filter_metadata
    if SUBSET_NAMESPACE not in namespaces or DESTINATION_SUBSET not in namespaces[SUBSET_NAMESPACE].fields:
        return None
    hint = namespaces[SUBSET_NAMESPACE].fields[DESTINATION_SUBSET]
    if hint.HasField("string_value"):
        return frozenset(part.strip() for part in hint.string_value.split(",") if part.strip())
    return frozenset(value.string_value for value in hint.list_value.values if value.string_value)


def _served(request: pb.ProcessingRequest) -> str | None:
    namespaces = request.metadata_context.filter_metadata
    if LB_NAMESPACE not in namespaces:
        return None
    fields = namespaces[LB_NAMESPACE].fields
    return fields[DESTINATION_SERVED].string_value if DESTINATION_SERVED in fields else None


def encode(reply: Reply) -> bytes:
    """Encodes a serialised `ProcessingResponse`."""
    match reply:
        case HeadersReply():
            return _encode_constant(reply) if reply.changes.destination is None else _headers_reply(reply)
        case BodyReply():
            return _encode_pick(reply.changes) if _is_pick(reply) else _body_reply(reply)
        case DuplexBodyReply():
            return _duplex_body_reply(reply)
        case TrailersReply():
            return _encode_trailers(reply.phase)
        case ImmediateReply():
            return _immediate(reply)
        case ExtendTimeout():
            return _extend_timeout(reply)


@lru_cache(maxsize=64)
def _encode_constant(reply: HeadersReply) -> bytes:
    """Cached: the replies that name no endpoint have few different values."""
    return _headers_reply(reply)


@lru_cache(maxsize=2)
def _encode_trailers(phase: Phase) -> bytes:
    trailers = pb.TrailersResponse()
    if phase is Phase.REQUEST:
        return pb.ProcessingResponse(request_trailers=trailers).SerializeToString()
    return pb.ProcessingResponse(response_trailers=trailers).SerializeToString()


def _headers_reply(reply: HeadersReply) -> bytes:
    message = pb.ProcessingResponse()
    headers = message.request_headers if reply.phase is Phase.REQUEST else message.response_headers
    # Present even without changes: the field says which message the reply belongs to.
    headers.response.SetInParent()
    _apply(reply.changes, headers.response)
    _send_to(message, reply.changes.destination)
    if reply.mode is not None:
        message.mode_override.CopyFrom(_mode(reply.mode))
    return message.SerializeToString()


def _body_reply(reply: BodyReply) -> bytes:
    message = pb.ProcessingResponse()
    body = message.request_body if reply.phase is Phase.REQUEST else message.response_body
    body.response.SetInParent()
    _apply(reply.changes, body.response)
    if reply.data is not None:
        body.response.body_mutation.body = reply.data
    _send_to(message, reply.changes.destination)
    return message.SerializeToString()


def _is_pick(reply: BodyReply) -> bool:
    """Whether `reply` only names a destination, as nearly every pick does."""
    changes = reply.changes
    return (
        changes.destination is not None
        and changes.set_headers == ((DESTINATION, changes.destination),)
        and reply.data is None
        and reply.phase is Phase.REQUEST
        and not (changes.remove_headers or changes.clear_route_cache)
    )


def _encode_pick(changes: Changes) -> bytes:
    """Encodes a reply for which `_is_pick` is true. The bytes around the destination depend only on its length."""
    assert changes.destination is not None
    data = changes.destination.encode()
    return data.join(_around_destination(len(data)))


@lru_cache(maxsize=256)
def _around_destination(size: int) -> list[bytes]:
    placeholder = "<" + "-" * (size - 2) + ">"
    changes = Changes(set_headers=((DESTINATION, placeholder),), destination=placeholder)
    parts = _body_reply(BodyReply(Phase.REQUEST, changes)).split(placeholder.encode())
    assert len(parts) == 3, "the reply has the destination as a header and as metadata"
    return parts


def _duplex_body_reply(reply: DuplexBodyReply) -> bytes:
    message = pb.ProcessingResponse()
    body = message.request_body if reply.phase is Phase.REQUEST else message.response_body
    piece = body.response.body_mutation.streamed_response
    piece.body = reply.data
    piece.end_of_stream = reply.end_of_stream
    return message.SerializeToString()


def _apply(changes: Changes, response: pb.CommonResponse) -> None:
    if changes.set_headers or changes.remove_headers:
        _mutate(response.header_mutation, changes.set_headers, changes.remove_headers)
    if changes.clear_route_cache:
        response.clear_route_cache = True


def _mutate(
    mutation: pb.HeaderMutation, set_headers: Iterable[tuple[str, str]], remove_headers: Iterable[str] = ()
) -> None:
    """Fills `mutation` in place. Making the parts first and copying them takes twice as long."""
    for key, value in set_headers:
        option = mutation.set_headers.add()
        option.append_action = _OVERWRITE
        header = option.header
        header.key = key
        header.raw_value = value.encode()
    mutation.remove_headers.extend(remove_headers)


def _send_to(response: pb.ProcessingResponse, destination: str | None) -> None:
    if destination is not None:
        response.dynamic_metadata.fields[LB_NAMESPACE].struct_value.fields[DESTINATION].string_value = destination


def _mode(override: ModeOverride) -> processing_mode_pb2.ProcessingMode:
    return _Mode(
        request_header_mode=_Mode.SEND,
        request_body_mode=_Mode.BodySendMode.Value(override.request_body.value),
        response_header_mode=_Mode.SEND,
        response_body_mode=_Mode.BodySendMode.Value(override.response_body.value),
        response_trailer_mode=_Mode.SEND,
    )


def _immediate(reply: ImmediateReply) -> bytes:
    message = pb.ProcessingResponse()
    immediate = message.immediate_response
    immediate.status.code = http_status_pb2.StatusCode.ValueType(reply.status)
    _mutate(immediate.headers, reply.headers)
    immediate.body = reply.body
    return message.SerializeToString()


def _extend_timeout(reply: ExtendTimeout) -> bytes:
    message = pb.ProcessingResponse()
    message.override_message_timeout.FromNanoseconds(int(reply.wait_s * 1e9))
    return message.SerializeToString()
