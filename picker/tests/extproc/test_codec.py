"""Decoding and encoding of the protocol's messages."""

from contextlib import suppress

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from google.protobuf import json_format, struct_pb2
from hypothesis import given
from hypothesis import strategies as st
from picker.extproc.codec import decode, encode
from picker.extproc.messages import (
    Body,
    BodyMode,
    BodyReply,
    Changes,
    DuplexBodyReply,
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
    DESTINATION,
    DESTINATION_SERVED,
    DESTINATION_SUBSET,
    FAIRNESS_ID,
    LB_NAMESPACE,
    OBJECTIVE,
    SUBSET_NAMESPACE,
)

Mode = processing_mode_pb2.ProcessingMode


def header_map(*headers: tuple[str, str], raw: bool = True) -> pb.HttpHeaders:
    values = [
        base_pb2.HeaderValue(key=key, raw_value=value.encode("latin-1"))
        if raw
        else base_pb2.HeaderValue(key=key, value=value)
        for key, value in headers
    ]
    return pb.HttpHeaders(headers=base_pb2.HeaderMap(headers=values))


def metadata(namespace: str, key: str, value: object) -> base_pb2.Metadata:
    struct = json_format.ParseDict({key: value}, struct_pb2.Struct())
    return base_pb2.Metadata(filter_metadata={namespace: struct})


def received(pool: str | None = None, **fields: object) -> Incoming:
    return decode(pb.ProcessingRequest(**fields).SerializeToString(), pool)  # type: ignore[arg-type]


def sent(reply: Reply) -> pb.ProcessingResponse:
    return pb.ProcessingResponse.FromString(encode(reply))


@pytest.mark.parametrize("raw", [True, False])
def test_headers_are_read_from_either_field(raw: bool) -> None:
    """Envoy sets raw_value, older proxies set value. Names become lower case, and other headers are omitted."""
    sent_headers = header_map(
        (":method", "POST"), ("Content-Type", "a/b"), (OBJECTIVE, "o"), (FAIRNESS_ID, "f"), ("cookie", "x"), raw=raw
    )
    message = received("a/b/c", request_headers=sent_headers)
    assert message == RequestHeaders(
        {":method": "POST", "content-type": "a/b", OBJECTIVE: "o", FAIRNESS_ID: "f"}, False, None, None, "a/b/c"
    )


def test_a_header_that_is_not_utf8_is_read_as_latin_1() -> None:
    """HTTP does not define the encoding of header values."""
    message = received(request_headers=header_map((":path", "/\xff")))
    assert isinstance(message, RequestHeaders)
    assert message.headers[":path"] == "/\xff"


def test_the_first_message_has_the_proxys_body_modes() -> None:
    config = pb.ProtocolConfiguration(request_body_mode=Mode.BUFFERED, response_body_mode=Mode.FULL_DUPLEX_STREAMED)
    message = received(request_headers=header_map(), protocol_config=config)
    assert isinstance(message, RequestHeaders)
    assert message.modes == Modes(BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED)


def test_an_unknown_body_mode_is_a_protocol_violation() -> None:
    config = pb.ProtocolConfiguration()
    data = pb.ProcessingRequest(request_headers=header_map(), protocol_config=config).SerializeToString()
    # Field 1 of the configuration, the request's mode, is 99.
    data = data.removesuffix(config.SerializeToString())[:-1] + b"\x02\x08\x63"
    assert pb.ProcessingRequest.FromString(data).protocol_config.request_body_mode == 99
    with pytest.raises(ProtocolViolation, match="99"):
        decode(data, None)


@pytest.mark.parametrize(
    ("hint", "subset"),
    [
        (["10.0.0.1:8000", "10.0.0.2:8000"], {"10.0.0.1:8000", "10.0.0.2:8000"}),
        ("10.0.0.1:8000, 10.0.0.2:8000", {"10.0.0.1:8000", "10.0.0.2:8000"}),
        ([], set()),
        ("", set()),
        (None, set()),
        (3.0, set()),
        ([3.0, "10.0.0.1:8000"], {"10.0.0.1:8000"}),
    ],
)
def test_the_subset_hint_is_a_list_or_one_string(hint: object, subset: set[str]) -> None:
    """A hint without an endpoint allows no endpoint."""
    message = received(
        request_headers=header_map(), metadata_context=metadata(SUBSET_NAMESPACE, DESTINATION_SUBSET, hint)
    )
    assert isinstance(message, RequestHeaders)
    assert message.subset == subset


@pytest.mark.parametrize(
    "context", [None, metadata(SUBSET_NAMESPACE, "other", "x"), metadata("other", DESTINATION_SUBSET, "x")]
)
def test_without_a_subset_hint_all_endpoints_are_allowed(context: base_pb2.Metadata | None) -> None:
    message = received(request_headers=header_map(), metadata_context=context)
    assert isinstance(message, RequestHeaders)
    assert message.subset is None


def test_the_endpoint_that_answered_is_read_from_the_metadata() -> None:
    context = metadata(LB_NAMESPACE, DESTINATION_SERVED, "10.0.0.1:8000")
    message = received(response_headers=header_map((":status", "200")), metadata_context=context)
    assert message == ResponseHeaders({":status": "200"}, False, "10.0.0.1:8000")


def test_bodies_and_trailers_of_both_phases_are_decoded() -> None:
    data = pb.HttpBody(body=b"x", end_of_stream=True)
    assert received(request_body=data) == Body(Phase.REQUEST, b"x", True)
    assert received(response_body=data) == Body(Phase.RESPONSE, b"x", True)
    assert received(request_trailers=pb.HttpTrailers()) == Trailers(Phase.REQUEST)
    assert received(response_trailers=pb.HttpTrailers()) == Trailers(Phase.RESPONSE)


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\x0a", b"\x10\x01", pb.ProcessingRequest(observability_mode=True).SerializeToString()]
)
def test_invalid_bytes_are_a_protocol_violation(data: bytes) -> None:
    """Empty, broken, truncated, or without a request."""
    with pytest.raises(ProtocolViolation):
        decode(data, None)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_violation(data: bytes) -> None:
    with suppress(ProtocolViolation):
        decode(data, None)  # must not raise anything else


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_message_with_any_byte_changed_is_a_message_or_a_violation(place: int, byte: int) -> None:
    """Nearly valid messages reach more of the decoder than random bytes do."""
    whole = bytearray(
        pb.ProcessingRequest(
            request_headers=header_map((":method", "POST"), (":path", "/v1"), ("content-type", "application/json")),
            protocol_config=pb.ProtocolConfiguration(request_body_mode=Mode.BUFFERED),
            metadata_context=metadata(SUBSET_NAMESPACE, DESTINATION_SUBSET, ["10.0.0.1:8000"]),
        ).SerializeToString()
    )
    whole[place % len(whole)] = byte
    with suppress(ProtocolViolation):
        decode(bytes(whole), None)  # must not raise anything else


texts = st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=60)
changes = st.builds(
    Changes,
    set_headers=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    remove_headers=st.lists(texts, max_size=3).map(tuple),
    destination=st.none() | texts.map(lambda text: text * 5),
    clear_route_cache=st.booleans(),
)
phases = st.sampled_from(Phase)


def of_phase(message: pb.ProcessingResponse, phase: Phase, part: str) -> object:
    assert message.WhichOneof("response") == f"{phase.value}_{part}"
    return getattr(message, f"{phase.value}_{part}")


def check_changes(message: pb.ProcessingResponse, common: pb.CommonResponse, expected: Changes) -> None:
    mutation = common.header_mutation
    overwrite = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    assert [(option.header.key, option.header.raw_value.decode()) for option in mutation.set_headers] == list(
        expected.set_headers
    )
    assert all(option.append_action == overwrite for option in mutation.set_headers)
    assert tuple(mutation.remove_headers) == expected.remove_headers
    assert common.clear_route_cache == expected.clear_route_cache
    assert common.status == pb.CommonResponse.CONTINUE
    namespaces = {key: dict(value.struct_value) for key, value in message.dynamic_metadata.fields.items()}
    destination = expected.destination
    assert namespaces == ({} if destination is None else {LB_NAMESPACE: {DESTINATION: destination}})


@given(phases, changes)
def test_a_headers_reply_has_the_changes(phase: Phase, expected: Changes) -> None:
    """The destination is sent as metadata, and as a header if `set_headers` has it."""
    message = sent(HeadersReply(phase, expected))
    headers = of_phase(message, phase, "headers")
    assert isinstance(headers, pb.HeadersResponse)
    check_changes(message, headers.response, expected)
    assert not message.HasField("mode_override")


@given(phases, changes, st.none() | st.binary(max_size=300))
def test_a_body_reply_has_the_changes(phase: Phase, expected: Changes, data: bytes | None) -> None:
    """`data` replaces the body, also by nothing. None keeps it."""
    message = sent(BodyReply(phase, expected, data))
    body = of_phase(message, phase, "body")
    assert isinstance(body, pb.BodyResponse)
    check_changes(message, body.response, expected)
    assert body.response.HasField("body_mutation") == (data is not None)
    if data is not None:
        assert body.response.body_mutation.WhichOneof("mutation") == "body"
        assert body.response.body_mutation.body == data


@given(phases, st.binary(max_size=300), st.booleans())
def test_a_piece_of_a_duplex_body_is_a_streamed_response(phase: Phase, data: bytes, end: bool) -> None:
    body = of_phase(sent(DuplexBodyReply(phase, data, end)), phase, "body")
    assert isinstance(body, pb.BodyResponse)
    streamed = body.response.body_mutation.streamed_response
    assert (streamed.body, streamed.end_of_stream) == (data, end)


@pytest.mark.parametrize("phase", Phase)
def test_a_trailers_reply_has_its_phase(phase: Phase) -> None:
    of_phase(sent(TrailersReply(phase)), phase, "trailers")


def test_a_mode_override_keeps_the_header_and_trailer_modes() -> None:
    """Envoy rejects an override that changes the request header mode. The trailers are the end of a response."""
    message = sent(HeadersReply(Phase.REQUEST, Changes(), ModeOverride(BodyMode.STREAMED)))
    assert message.mode_override == Mode(
        request_header_mode=Mode.SEND,
        request_body_mode=Mode.BUFFERED,
        response_header_mode=Mode.SEND,
        response_body_mode=Mode.STREAMED,
        response_trailer_mode=Mode.SEND,
    )


@given(st.sampled_from([400, 404, 408, 413, 415, 429, 500, 503]), st.binary(max_size=300))
def test_an_immediate_reply_has_status_headers_and_body(status: int, body: bytes) -> None:
    message = sent(ImmediateReply(status, (("content-type", "application/json"),), body)).immediate_response
    assert (message.status.code, message.body) == (status, body)
    [option] = message.headers.set_headers
    assert (option.header.key, option.header.raw_value) == ("content-type", b"application/json")


@given(st.integers(1, 4), st.integers(0, 2**32))
def test_a_pick_names_its_endpoints_as_header_and_as_metadata(count: int, seed: int) -> None:
    """For all lengths of addresses, because protobuf writes lengths before them."""
    addresses = [f"10.{seed >> 24}.{seed % 7**index}.{index}:{seed % 60_000}" for index in range(1, count + 1)]
    destination = ",".join([*addresses, "[2001:db8::1]:8000"])
    changes = Changes(set_headers=((DESTINATION, destination),), destination=destination)
    message = sent(BodyReply(Phase.REQUEST, changes))
    [header] = message.request_body.response.header_mutation.set_headers
    assert (header.header.key, header.header.raw_value) == (DESTINATION, destination.encode())
    assert json_format.MessageToDict(message.dynamic_metadata) == {LB_NAMESPACE: {DESTINATION: destination}}
