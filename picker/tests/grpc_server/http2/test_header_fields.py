"""Blocks read field by field say what a whole decoder says, or nothing."""

import hpack
from hpack.exceptions import HPACKError
from hypothesis import given
from hypothesis import strategies as st
from picker.grpc_server.http2.header_fields import CACHED_FIELDS, FieldCache

names = st.sampled_from([":path", ":method", "te", "traceparent", "x-inference-pool", "content-type"]) | st.text(
    "abc-", min_size=1, max_size=200
)
values = st.sampled_from(["POST", "trailers", ""]) | st.text("abcdef0123456789/.", max_size=300)
fields = st.lists(st.tuples(names, values), max_size=12)


def whole(block: bytes) -> list[tuple[str, str]] | None:
    """By a decoder that allows no table."""
    decoder = hpack.Decoder()
    decoder.header_table_size = decoder.max_allowed_table_size = 0
    try:
        decoded = decoder.decode(block, raw=True)
    except HPACKError:
        return None
    return [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in decoded]


def encoded(named: list[tuple[str, str]], huffman: bool, tabled: bool) -> bytes:
    """`tabled`: as literals for a table that takes none."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    sent = named if tabled else [hpack.NeverIndexedHeaderTuple(*each) for each in named]
    return encoder.encode(sent, huffman=huffman)


@given(fields, st.booleans(), st.booleans())
def test_every_field_is_read_however_it_is_written(named: list[tuple[str, str]], huffman: bool, tabled: bool) -> None:
    """Twice: decoded, and found."""
    kept = FieldCache()
    block = encoded(named, huffman, tabled)
    sound = all(_sound(*each) for each in named)
    assert kept.read(block) == (named if sound else None)
    assert kept.read(block) == (named if sound else None)


def _sound(name: str, value: str) -> bool:
    return name != "te" or value == "trailers"


@given(
    fields, st.booleans(), st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=3), st.integers(0, 9)
)
def test_a_damaged_block_is_read_as_a_whole_decoder_reads_it_or_not_at_all(
    named: list[tuple[str, str]], huffman: bool, changes: list[tuple[int, int]], cut: int
) -> None:
    """Also by one that has kept the fields of sound blocks before."""
    kept = FieldCache()
    block = bytearray(encoded(named, huffman, tabled=False))
    kept.read(bytes(block))
    for at, byte in changes:
        if block:
            block[at % len(block)] = byte
    damaged = bytes(block[: max(0, len(block) - cut)])
    read = kept.read(damaged)
    assert read is None or read == whole(damaged)


def test_a_block_beyond_the_bound_is_left_to_the_decoder() -> None:
    """Decoded, not as sent."""
    kept = FieldCache()
    kept.read(encoded([("a", "b" * 1000)], huffman=True, tabled=False))
    assert kept.read(encoded([("a", "b" * 1000)] * 20, huffman=True, tabled=False)) is None


def test_what_is_kept_is_bounded() -> None:
    """A trace id each."""
    kept = FieldCache()
    for number in range(2 * CACHED_FIELDS):
        assert kept.read(encoded([("traceparent", str(number)), ("te", "trailers")], True, False)) is not None
    assert len(kept) <= CACHED_FIELDS
