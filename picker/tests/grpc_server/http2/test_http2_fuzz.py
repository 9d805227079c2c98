"""Fuzzing of the state machine with random bytes and nearly valid frames.

It never raises, and it either continues or terminates the connection with a reason."""

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from http2_peer import ANSWER, REQUEST, TRAILERS, RawClient, data, headers
from picker.grpc_server.http2 import frames
from picker.grpc_server.http2.events import ConnectionTerminated, DataReceived, RequestReceived, StreamReset
from picker.grpc_server.http2.frames import ErrorCode
from picker.grpc_server.http2.headers import encode_headers

RUNS = 400
FRAMES_PER_RUN = 60


def some_frame(random: Random, next_id: int, alive: set[int]) -> bytes:
    """Returns a well-formed frame; one in twenty may be out of place."""
    out_of_place = random.random() < 0.05
    if not out_of_place and not alive:
        return headers(next_id)
    stream_id = random.randrange(max(alive or {1}) + 4) if out_of_place else random.choice(sorted(alive))
    payload = random.randbytes(random.choice([0, 1, 4, 5, 6, 8, 30]))
    match random.randrange(9):
        case 0 | 1:
            return headers(stream_id if out_of_place else next_id, end=random.random() < 0.2)
        case 2 | 3 | 4:
            return data(stream_id, payload, end=random.random() < 0.2)
        case 5:
            return frames.window_update(stream_id if random.random() < 0.8 else 0, 0 if out_of_place else 1000)
        case 6:
            return frames.rst_stream(stream_id, ErrorCode.CANCEL)
        case 7:
            block = encode_headers(REQUEST)
            cut = random.randrange(len(block))
            return frames.frame(frames.HEADERS, 0, next_id, block[:cut]) + frames.frame(
                frames.CONTINUATION, frames.END_HEADERS, next_id, block[cut:]
            )
        case _:
            if out_of_place:
                return frames.frame(random.randrange(12), random.randrange(256), stream_id, payload)
            return random.choice([frames.settings_frame({}), frames.frame(frames.PING, 0, 0, bytes(8))])


def mangled(random: Random, sent: bytes) -> bytes:
    """Returns `sent` with a flipped bit or without a few bytes, but mostly unchanged."""
    at = random.randrange(len(sent))
    match random.randrange(50):
        case 0 | 1:
            return sent[:at] + bytes([sent[at] ^ 1 << random.randrange(8)]) + sent[at + 1 :]
        case 2:
            return sent[:at] + sent[at + random.randrange(4) :]
        case _:
            return sent


@pytest.mark.parametrize("seed", range(4))
def test_mangled_frames_never_raise(seed: int, record_property: Callable[[str, object], None]) -> None:
    """Data arrives only on streams that were opened and not reset."""
    seen: Counter[str] = Counter()
    for run in range(RUNS):
        random = Random(f"{seed} {run}")
        client = RawClient()
        alive: set[int] = set()
        answered: set[int] = set()
        next_id = 1
        for _ in range(FRAMES_PER_RUN):
            for event in client.send(mangled(random, some_frame(random, next_id, alive))):
                seen[type(event).__name__] += 1
                match event:
                    case RequestReceived(stream_id, _, _):
                        assert stream_id not in alive
                        alive.add(stream_id)
                        next_id = max(next_id, stream_id + 2)
                    case DataReceived(stream_id, _, _):
                        assert stream_id in alive | answered
                    case StreamReset(stream_id, _):
                        alive.discard(stream_id)
                    case ConnectionTerminated():
                        assert client.connection.closed
                        alive.clear()
            if alive and random.random() < 0.2:
                stream_id = random.choice(sorted(alive))
                client.connection.respond(stream_id, ANSWER)
                client.connection.send(stream_id, bytes(random.choice([1, 100_000])))
                if random.random() < 0.5:
                    client.connection.end(stream_id, TRAILERS)
                    alive.discard(stream_id)
                    answered.add(stream_id)
            client.received_frames()
            if client.connection.closed:
                break
        seen["runs"] += 1
    assert seen["DataReceived"] > 100
    assert seen["ConnectionTerminated"] > 100
    record_property("events", dict(seen))
    print(f"seed {seed}: {dict(seen)}")


def test_random_bytes_never_raise() -> None:
    """The bytes hold no preface in half of the runs."""
    random = Random(1)
    for _ in range(2_000):
        client = RawClient(sends_preface=random.random() < 0.5)
        client.send(random.randbytes(random.randrange(200)))  # must not raise
        client.received_frames()
