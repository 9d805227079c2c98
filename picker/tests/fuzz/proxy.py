"""A proxy as the picker sees it: one connection, with requests in every stage; honest, or broken in some way."""

import json
from collections.abc import Callable, Iterator
from random import Random

from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from http2_peer import REQUEST
from pick_stream import POOL
from picker.extproc.stream import PROCESS
from picker.grpc_server.calls import CallDispatcher
from picker.grpc_server.framing import framed
from picker.grpc_server.http2 import frames
from picker.grpc_server.http2.connection import Connection
from picker.grpc_server.http2.headers import encode_headers

PATHS = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/responses/r/cancel",
    "/tokenize",
    "/v1/realtime",
    "/invocations",
)
MODELS = ("asked", "served", "other", "")
MODES = ("BUFFERED", "BUFFERED", "FULL_DUPLEX_STREAMED", "NONE", "STREAMED")
HEALTH = ("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch")
_Mode = processing_mode_pb2.ProcessingMode


def _headers(named: dict[str, str]) -> base_pb2.HeaderMap:
    values = [base_pb2.HeaderValue(key=key, raw_value=value.encode()) for key, value in named.items()]
    return base_pb2.HeaderMap(headers=values)


def _body(rng: Random) -> bytes:
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(300))
    prompt = "x" * rng.choice((0, 10, 2_000, 40_000))
    body = {"model": rng.choice(MODELS), "prompt": prompt, "max_tokens": rng.choice((0, 1, 4096)), "cache_salt": "s"}
    return json.dumps(body).encode()


def _answer(rng: Random) -> tuple[str, bytes]:
    if rng.random() < 0.5:
        return "application/json", json.dumps(
            {"model": "served", "choices": [{"text": "x" * rng.randrange(99)}]}
        ).encode()
    events = [f"data: {json.dumps({'model': 'served', 'n': number})}\n\n" for number in range(rng.randrange(9))]
    return "text/event-stream", "".join(events).encode()


def _pieces(rng: Random, data: bytes) -> Iterator[bytes]:
    while data:
        size = rng.choice((1, 9, len(data), len(data)))
        yield data[:size]
        data = data[size:]


def messages(rng: Random) -> list[bytes]:
    """Of one request and its answer, as Envoy sends them."""
    mode = rng.choice(MODES)
    body, (kind, answer) = _body(rng), _answer(rng)
    named = {":method": rng.choice(("POST", "POST", "POST", "GET")), ":path": rng.choice(PATHS)}
    if rng.random() < 0.5:
        named |= {"content-type": "application/json", "content-length": str(len(body)), "x-request-id": "r" * 36}
    if rng.random() < 0.2:
        named |= {"x-gateway-inference-fairness-id": rng.choice("abc"), "x-gateway-inference-objective": "high"}
    if rng.random() < 0.05:
        named |= {"connection": "Upgrade", "upgrade": "websocket"}
    ended = rng.random() < 0.1
    first = pb.ProcessingRequest(request_headers=pb.HttpHeaders(headers=_headers(named), end_of_stream=ended))
    if rng.random() < 0.9:
        answer_mode = "FULL_DUPLEX_STREAMED" if mode == "FULL_DUPLEX_STREAMED" else "NONE"
        first.protocol_config.request_body_mode = _Mode.BodySendMode.Value(mode)
        first.protocol_config.response_body_mode = _Mode.BodySendMode.Value(answer_mode)
    said = [first]
    if not ended and mode != "NONE":
        pieces = [body] if mode == "BUFFERED" else list(_pieces(rng, body)) or [b""]
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            said.append(pb.ProcessingRequest(request_body=pb.HttpBody(body=piece, end_of_stream=last)))
    if rng.random() < 0.7:
        status = rng.choice(("200", "200", "200", "500", "101", "404"))
        head = pb.HttpHeaders(headers=_headers({":status": status, "content-type": kind}))
        said.append(pb.ProcessingRequest(response_headers=head))
        said += [pb.ProcessingRequest(response_body=pb.HttpBody(body=piece)) for piece in _pieces(rng, answer)]
        said.append(pb.ProcessingRequest(response_trailers=pb.HttpTrailers()))
    return [message.SerializeToString() for message in said]


class Proxy:
    """Feeds one connection. `honest` ones keep to HTTP/2 and gRPC; what they say in messages may be out of place."""

    def __init__(self, rng: Random, calls_of: Callable[[Connection], CallDispatcher], connection: Connection) -> None:
        self._rng = rng
        self.connection = connection
        self.calls = calls_of(connection)
        self.honest = rng.random() < 0.6
        self.lost = False
        self.streams = 0
        self.messages = 0
        self._next_id = 1
        self._left: dict[int, list[bytes]] = {}
        """What is still to be sent of each request: frames."""
        # A dishonest one may never open its windows.
        window = {} if self.honest or rng.random() < 0.7 else {frames.Setting.INITIAL_WINDOW_SIZE: rng.choice((0, 7))}
        greeting = frames.PREFACE + frames.settings_frame(window) + frames.frame(frames.SETTINGS, frames.ACK, 0)
        self._unsent = greeting + frames.window_update(0, 1 << 30)

    def step(self, now_s: float) -> None:
        """Begin or go on with a request, or do something strange."""
        chance = self._rng.random()
        if chance < 0.3:
            self._begin()
        elif chance < 0.85:
            self._go_on()
        elif chance < 0.9 and self._left:
            stream_id = self._rng.choice(list(self._left))
            del self._left[stream_id]
            self._unsent += frames.rst_stream(stream_id, frames.ErrorCode.CANCEL)
        elif chance < 0.93:
            self._unsent += frames.frame(frames.PING, 0, 0, b"12345678")
        elif not self.honest:
            self._misbehave()
        if self._rng.random() < 0.7:
            self.flush(now_s)

    def flush(self, now_s: float) -> None:
        """One read of the picker's, cut where a socket may cut it."""
        data, self._unsent = self._unsent, b""
        for piece in _pieces(self._rng, data) if self._rng.random() < 0.1 else (data,):
            self.calls.receive(piece, now_s)
        for kind, stream_id in _answered(self.connection.data_to_send()):
            if kind == frames.RST_STREAM:
                self._left.pop(stream_id, None)
        if self.connection.closed:
            self.lose()

    def lose(self) -> None:
        """The connection breaks."""
        self.lost = True
        self._left.clear()
        self.calls.lost()

    def _begin(self) -> None:
        rng, stream_id = self._rng, self._next_id
        self._next_id += 2
        self.streams += 1
        health = rng.random() < 0.05
        path = rng.choice(HEALTH) if health else PROCESS
        fields = list((dict(REQUEST) | {":path": path}).items())
        if rng.random() < 0.95:
            fields.append(("x-inference-pool", POOL))
        if rng.random() < 0.1:
            fields.append(("grpc-timeout", "30S"))
        said = [b""] if health else messages(rng)
        if not self.honest and rng.random() < 0.3:
            rng.shuffle(said)
        self.messages += len(said)
        if rng.random() < 0.3:
            fields.append(("traceparent", f"00-{rng.getrandbits(128):032x}-{rng.getrandbits(64):016x}-01"))
        block = (b"\x20" if rng.random() < 0.7 else b"") + encode_headers(fields)
        if rng.random() < 0.1:
            half = len(block) // 2
            left = [
                frames.frame(frames.HEADERS, 0, stream_id, block[:half])
                + frames.frame(frames.CONTINUATION, frames.END_HEADERS, stream_id, block[half:])
            ]
        else:
            left = [frames.frame(frames.HEADERS, frames.END_HEADERS, stream_id, block)]
        for message in said:
            data = framed(message)
            size = rng.choice((16_384, 16_384, 16_384, 4_000, 5))
            size = max(size, len(data) // 50)
            size = min(size, 16_384)
            left += [frames.frame(frames.DATA, 0, stream_id, data[at : at + size]) for at in range(0, len(data), size)]
        if rng.random() < 0.8:
            left.append(frames.frame(frames.DATA, frames.END_STREAM, stream_id))
        self._left[stream_id] = left[1:]
        self._unsent += left[0]

    def _go_on(self) -> None:
        if not self._left:
            return
        stream_id = self._rng.choice(list(self._left))
        left = self._left[stream_id]
        count = self._rng.choice((1, 2, len(left)))
        self._unsent += b"".join(left[:count])
        del left[:count]
        if not left:
            del self._left[stream_id]

    def _misbehave(self) -> None:
        rng = self._rng
        match rng.randrange(5):
            case 0 if self._unsent:
                place = rng.randrange(len(self._unsent))
                data = bytearray(self._unsent)
                data[place] ^= 1 << rng.randrange(8)
                self._unsent = bytes(data)
            case 1:
                kind, flags = rng.randrange(11), rng.randrange(256)
                self._unsent += frames.frame(
                    kind, flags, rng.randrange(self._next_id + 4), rng.randbytes(rng.randrange(40))
                )
            case 2 if self._left:
                # A message begins that is never finished.
                self._unsent += frames.frame(
                    frames.DATA, 0, rng.choice(list(self._left)), b"\0\0\x0f\xff\xff" + b"x" * 9_000
                )
            case 3 if self._left:
                left = rng.choice(list(self._left.values()))
                left.insert(rng.randrange(len(left) + 1), rng.choice(left))
            case _:
                self._unsent += self._unsent[: rng.randrange(200)]


def _answered(data: bytes) -> Iterator[tuple[int, int]]:
    """Kind and stream of each frame of the picker's. Fails where they are not whole frames."""
    at = 0
    while at < len(data):
        high, low, kind, _, stream_id = frames.read_header(data, at)
        at += frames.HEADER_BYTES + (high << 8 | low)
        yield kind, stream_id
    assert at == len(data), "the picker has written half a frame"
