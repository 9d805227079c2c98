"""Fuzzing of the parsers of external bytes: recorded inputs with parts cut, repeated or changed."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random

import msgspec
from picker.endpoints.metrics.vllm_parser import MetricsReader, NoServerMetrics
from picker.endpoints.prefix_cache.kv_events.messages import Unreadable, read_batch
from picker.extproc.codec import decode
from picker.extproc.messages import ProtocolViolation
from picker.extproc.response_model import ResponseKind, ResponseModelRewriter
from picker.grpc_server.http2.header_fields import MalformedHeaders
from picker.grpc_server.http2.headers import (
    HeaderBlockCache,
    HeaderReader,
    OversizedHeaders,
    UndecodableHeaders,
    encode_headers,
)
from picker.requestcontrol.request_body import read_body
from picker.resources.names import ObjectName, PoolName

from fuzz.proxy import messages

PAGE = b"".join(
    b"# HELP %s x\n# TYPE %s gauge\n%s{engine=\"0\",model_name=\"m\"} %s\n" % (name, name, name, value)
    for name, value in (
        (b"vllm:num_requests_running", b"3.0"),
        (b"vllm:num_requests_waiting", b"1e308"),
        (b"vllm:kv_cache_usage_perc", b"0.5"),
        (b"vllm:lora_requests_info", b"1.7e9"),
        (b"vllm:cache_config_info", b"1.0"),
        (b"vllm:time_to_first_token_seconds_sum", b"NaN"),
        (b"vllm:time_to_first_token_seconds_count", b"+Inf"),
    )
)  # fmt: skip
BODIES = (
    b'{"model": "m", "messages": [{"role": "user", "content": "hi \\u00e9 \\ud83d"}], "max_tokens": 5}',
    b'{"model": "m", "prompt": [1, 2, 3], "n": 2, "max_tokens": null, "cache_salt": "x"}',
    b'{"model": 3, "input": ["a", {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}',
)
EVENTS = (
    msgspec.msgpack.encode([1.5, [["BlockStored", [1, b"x"], None, [1, 2, 3, 4], 4, None, "GPU", None]], 0]),
    msgspec.msgpack.encode([1.5, [{"type": "BlockRemoved", "block_hashes": [7], "medium": "GPU"}]]),
    msgspec.msgpack.encode([1.5, [["AllBlocksCleared"]], None]),
)
NAMES = (b"g/ns/pool", b"ns/pool", b"inference.networking.k8s.io/default/a-b.c")


def mangled(rng: Random, text: bytes) -> bytes:
    """Returns `text` with parts cut, repeated or changed."""
    for _ in range(rng.randrange(6)):
        at, size = rng.randrange(len(text) + 1), rng.choice((0, 1, 3, 40))
        match rng.randrange(4):
            case 0:
                text = text[:at] + text[at + size :]
            case 1:
                text = text[: at + size] + text[at:]
            case 2:
                text = text[:at] + rng.randbytes(size) + text[at:]
            case _:
                text = (
                    text[:at] + rng.choice((b'"', b"\\", b"{", b"\n", b"=", b"1e308", b"\xff", b"}")) * size + text[at:]
                )
    return text


def pages(rng: Random) -> None:
    """Parses several pages with one reader, like those of one server."""
    reader = MetricsReader()
    for _ in range(20):
        with suppress(NoServerMetrics):
            read = reader.read(mangled(rng, PAGE))
            assert 0 <= read.kv_cache_usage <= 1
            assert read.running >= 0 <= read.queue_depth


def bodies(rng: Random) -> None:
    for _ in range(20):
        read_body(mangled(rng, rng.choice(BODIES)), rng.random() < 0.5)  # must not raise


def kv_events(rng: Random) -> None:
    for _ in range(20):
        with suppress(Unreadable):
            read_batch(mangled(rng, rng.choice(EVENTS)))  # must raise only Unreadable


def names(rng: Random) -> None:
    for _ in range(20):
        text = mangled(rng, rng.choice(NAMES)).decode(errors="replace")
        for kind in (ObjectName, PoolName):
            with suppress(ValueError):
                assert str(kind.parse(text)) == text


def proxy_messages(rng: Random) -> None:
    for message in messages(rng):
        with suppress(ProtocolViolation):
            decode(mangled(rng, message), None)  # must raise only ProtocolViolation


def heads(rng: Random) -> None:
    """Decodes the header blocks of one connection."""
    reader = HeaderReader(HeaderBlockCache())
    reader.dynamic_table_disabled()
    valid = encode_headers([(":method", "POST"), (":scheme", "http"), (":path", "/x"), ("a", "b" * 50)])
    with suppress(UndecodableHeaders, OversizedHeaders):
        for _ in range(20):
            with suppress(MalformedHeaders):
                reader.request(mangled(rng, valid))  # must raise only the errors named above


def answers(rng: Random) -> None:
    """Rewrites a response in pieces and as a whole, and compares the results."""
    text = json.dumps(
        {"model": "served", "response": {"model": "served"}, "x": ["model", {"model": "served"}]}
    ).encode()
    text = mangled(rng, text)
    for kind in ResponseKind:
        pieces, whole = ResponseModelRewriter(kind, "served", "m"), ResponseModelRewriter(kind, "served", "m")
        out = b"".join(pieces.feed(text[at : at + 1], end=False) for at in range(len(text))) + pieces.feed(
            b"", end=True
        )
        if kind is ResponseKind.JSON:
            assert out == whole.feed(text, end=True)


READERS: Sequence[Callable[[Random], None]] = (pages, bodies, kv_events, names, proxy_messages, heads, answers)
