"""The decoder of Envoy's frequent messages agrees with protobuf."""

from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from google.protobuf import struct_pb2
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st
from picker.extproc import fast_decode
from picker.extproc.messages import Body

NAMES = {b":path": ":path", b"x-request-id": "x-request-id", b"N" * 130: "long"}

headers = st.lists(
    st.tuples(
        st.sampled_from([":path", "x-request-id", "N" * 130]) | st.text("abc-", min_size=1, max_size=140),
        st.binary(max_size=3) | st.binary(min_size=120, max_size=300),
    ),
    max_size=12,
)
rests = st.builds(
    lambda subset, modes: pb.ProcessingRequest(
        metadata_context=base_pb2.Metadata(filter_metadata={subset: struct_pb2.Struct()}) if subset else None,
        protocol_config=pb.ProtocolConfiguration(request_body_mode=processing_mode_pb2.ProcessingMode.BUFFERED)
        if modes
        else None,
    ).SerializeToString(),
    st.text("abc", max_size=200),
    st.booleans(),
)


def headers_message(named: list[tuple[str, bytes]], ended: bool) -> bytes:
    values = [base_pb2.HeaderValue(key=key, raw_value=value) for key, value in named]
    content = pb.HttpHeaders(headers=base_pb2.HeaderMap(headers=values), end_of_stream=ended)
    return pb.ProcessingRequest(request_headers=content).SerializeToString()


def body_message(body: bytes, ended: bool) -> bytes:
    return pb.ProcessingRequest(request_body=pb.HttpBody(body=body, end_of_stream=ended)).SerializeToString()


@given(headers, st.booleans(), rests)
def test_the_named_headers_and_the_rest_of_the_message_are_returned(
    named: list[tuple[str, bytes]], ended: bool, rest: bytes
) -> None:
    read = fast_decode.read_headers(headers_message(named, ended) + rest, NAMES)
    assert read is not None
    expected = {NAMES[key.encode()]: value.decode("latin-1") for key, value in named if key.encode() in NAMES}
    assert (read.headers, read.end_of_stream, read.rest) == (expected, ended, rest)


@given(st.binary(max_size=20_000), st.booleans(), rests)
def test_a_body_is_read_whole(body: bytes, ended: bool, rest: bytes) -> None:
    read = fast_decode.read_body(body_message(body, ended) + rest)
    assert read is not None
    assert (read.data, read.end_of_stream) == (body, ended)


def test_a_header_with_a_string_value_is_left_to_protobuf() -> None:
    """Envoy writes bytes."""
    values = [base_pb2.HeaderValue(key=":path", value="/v1/models")]
    content = pb.HttpHeaders(headers=base_pb2.HeaderMap(headers=values))
    assert fast_decode.read_headers(pb.ProcessingRequest(request_headers=content).SerializeToString(), NAMES) is None


@given(
    st.sampled_from(
        [
            headers_message([(":path", b"/v1"), ("x-request-id", b"r" * 140), ("other", b"")], True),
            body_message(b"x" * 200, True),
        ]
    ),
    st.lists(st.tuples(st.integers(min_value=1, max_value=400), st.integers(0, 255)), max_size=3),
    st.integers(min_value=0, max_value=400),
)
@example(b"\x12" + b"\xff" * 9, [], 0)
@example(b"\x22" + b"\xff" * 9, [], 0)
def test_damaged_messages_are_read_as_protobuf_reads_them_or_not_at_all(
    message: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    """Messages that protobuf rejects are not compared, because no proxy sends them."""
    damaged = bytearray(message)
    for at, byte in changes:
        damaged[1 + at % (len(damaged) - 1)] = byte
    data = bytes(damaged[: max(1, len(damaged) - cut)])
    reading = (
        fast_decode.read_headers(data, NAMES)
        if data[:1] == fast_decode.REQUEST_HEADERS
        else fast_decode.read_body(data)
    )
    try:
        request = pb.ProcessingRequest.FromString(data)
    except DecodeError:
        return
    if isinstance(reading, fast_decode.Headers) and request.WhichOneof("request") == "request_headers":
        content = request.request_headers
        found = {
            NAMES[header.key.encode()]: header.raw_value.decode("latin-1")
            for header in content.headers.headers
            if header.key.encode() in NAMES
        }
        assert (reading.headers, reading.end_of_stream) == (found, content.end_of_stream)
    elif isinstance(reading, Body) and request.WhichOneof("request") == "request_body":
        content_ = request.request_body
        assert (reading.data, reading.end_of_stream) == (content_.body, content_.end_of_stream)
