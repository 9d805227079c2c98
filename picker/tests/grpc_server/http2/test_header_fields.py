"""The field cache agrees with a full decoder, or returns None."""

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


def fully_decoded(block: bytes) -> list[tuple[str, str]] | None:
    """Decodes `block` with a decoder that allows no dynamic table; None if it does not decode."""
    decoder = hpack.Decoder()
    decoder.header_table_size = decoder.max_allowed_table_size = 0
    try:
        decoded = decoder.decode(block, raw=True)
    except HPACKError:
        return None
    return [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in decoded]


def encoded(sent_fields: list[tuple[str, str]], huffman: bool, indexed: bool) -> bytes:
    """Encodes the fields. `indexed`: as literals with indexing, for a table of size 0."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    sent = sent_fields if indexed else [hpack.NeverIndexedHeaderTuple(*field) for field in sent_fields]
    return encoder.encode(sent, huffman=huffman)


@given(fields, st.booleans(), st.booleans())
def test_fields_are_read_in_every_encoding(sent_fields: list[tuple[str, str]], huffman: bool, indexed: bool) -> None:
    """The second read is served by the cache."""
    cache = FieldCache()
    block = encoded(sent_fields, huffman, indexed)
    valid = all(_is_valid(*field) for field in sent_fields)
    assert cache.read(block) == (sent_fields if valid else None)
    assert cache.read(block) == (sent_fields if valid else None)


def _is_valid(name: str, value: str) -> bool:
    return name != "te" or value == "trailers"


@given(
    fields, st.booleans(), st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=3), st.integers(0, 9)
)
def test_damaged_block_agrees_with_decoder_or_is_none(
    sent_fields: list[tuple[str, str]], huffman: bool, changes: list[tuple[int, int]], cut: int
) -> None:
    """The cache holds the fields of the undamaged block."""
    cache = FieldCache()
    block = bytearray(encoded(sent_fields, huffman, indexed=False))
    cache.read(bytes(block))
    for at, byte in changes:
        if block:
            block[at % len(block)] = byte
    damaged = bytes(block[: max(0, len(block) - cut)])
    read = cache.read(damaged)
    assert read is None or read == fully_decoded(damaged)


def test_block_over_the_size_limit_is_none() -> None:
    """The limit applies to the decoded size."""
    cache = FieldCache()
    cache.read(encoded([("a", "b" * 1000)], huffman=True, indexed=False))
    assert cache.read(encoded([("a", "b" * 1000)] * 20, huffman=True, indexed=False)) is None


def test_cache_size_is_bounded() -> None:
    """Each block has a new trace id."""
    cache = FieldCache()
    for number in range(2 * CACHED_FIELDS):
        assert cache.read(encoded([("traceparent", str(number)), ("te", "trailers")], True, False)) is not None
    assert len(cache) <= CACHED_FIELDS
