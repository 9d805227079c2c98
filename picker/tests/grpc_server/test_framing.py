"""Length-prefixed messages, read from data split anywhere."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picker.grpc_server.framing import MAX_MESSAGE_BYTES, MessageReader, framed
from picker.grpc_server.status import RpcError, Status


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(0, 400), max_size=12))
def test_messages_do_not_depend_on_how_bytes_are_split(messages: list[bytes], cuts: list[int]) -> None:
    """Nothing is left over at the end."""
    sent = b"".join(map(framed, messages))
    reader = MessageReader()
    found: list[bytes] = []
    start = 0
    for end in [*sorted(cut for cut in cuts if cut < len(sent)), len(sent)]:
        if end > start:
            found += reader.feed(sent[start:end])
            start = end
    assert found == messages
    assert reader.held_bytes == 0


def feed(reader: MessageReader, *pieces: bytes) -> None:
    for piece in pieces:
        reader.feed(piece)


def test_message_in_tiny_pieces_needs_little_more_memory() -> None:
    """The peer chooses the split, and the reader joins small pieces."""
    reader = MessageReader()
    message = bytes(range(256)) * 200
    sent = framed(message)
    tracemalloc.start()
    feed(reader, *(sent[at : at + 2] for at in range(0, len(sent) - 2, 2)))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2 * len(message)
    assert reader.feed(sent[-(len(sent) % 2 or 2) :]) == [message]


def test_held_bytes_count_the_incomplete_message() -> None:
    """The prefix counts too."""
    reader = MessageReader()
    assert reader.feed(framed(b"whole") + framed(b"half")[:-2]) == [b"whole"]
    assert reader.held_bytes == 7
    assert reader.feed(b"lf") == [b"half"]


@pytest.mark.parametrize(
    ("prefix", "status"),
    [
        (b"\x01\0\0\0\x01x", Status.UNIMPLEMENTED),
        (b"\x02\0\0\0\x01x", Status.INTERNAL),
        (b"\0" + (MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"), Status.RESOURCE_EXHAUSTED),
    ],
)
@pytest.mark.parametrize("cut", [1, 3, 5])
def test_invalid_message_is_rejected_by_its_prefix(prefix: bytes, status: Status, cut: int) -> None:
    """Compressed, unknown or too large messages are rejected before any of them is kept."""
    reader = MessageReader()
    with pytest.raises(RpcError) as raised:
        feed(reader, prefix[:cut], prefix[cut:])
    assert raised.value.status is status
