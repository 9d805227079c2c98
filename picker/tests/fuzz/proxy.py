"""A fake proxy: one connection with requests in every state, conforming to HTTP/2 or not."""

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


def _headers(fields: dict[str, str]) -> base_pb2.HeaderMap:
    values = [base_pb2.HeaderValue(key=key, raw_value=value.encode()) for key, value in fields.items()]
    return base_pb2.HeaderMap(headers=values)


def _body(rng: Random) -> bytes:
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(300))
    prompt = "x" * rng.choice((0, 10, 2_000, 40_000))
    body = {"model": rng.choice(MODELS), "prompt": prompt, "max_tokens": rng.choice((0, 1, 4096)), "cache_salt": "s"}
    return json.dumps(body).encode()


def _response(rng: Random) -> tuple[str, bytes]:
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
    """Returns the messages of one request and its response, as Envoy sends them."""
    mode = rng.choice(MODES)
    body, (content_type, response) = _body(rng), _response(rng)
    fields = {":method": rng.choice(("POST", "POST", "POST", "GET")), ":path": rng.choice(PATHS)}
    if rng.random() < 0.5:
        fields |= {"content-type": "application/json", "content-length": str(len(body)), "x-request-id": "r" * 36}
    if rng.random() < 0.2:
        fields |= {"x-gateway-inference-fairness-id": rng.choice("abc"), "x-gateway-inference-objective": "high"}
    if rng.random() < 0.05:
        fields |= {"connection": "Upgrade", "upgrade": "websocket"}
    ended = rng.random() < 0.1
    first = pb.ProcessingRequest(request_headers=pb.HttpHeaders(headers=_headers(fields), end_of_stream=ended))
    if rng.random() < 0.9:
        response_mode = "FULL_DUPLEX_STREAMED" if mode == "FULL_DUPLEX_STREAMED" else "NONE"
        first.protocol_config.request_body_mode = _Mode.BodySendMode.Value(mode)
        first.protocol_config.response_body_mode = _Mode.BodySendMode.Value(response_mode)
    envoy_messages = [first]
    if not ended and mode != "NONE":
        pieces = [body] if mode == "BUFFERED" else list(_pieces(rng, body)) or [b""]
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            envoy_messages.append(pb.ProcessingRequest(request_body=pb.HttpBody(body=piece, end_of_stream=last)))
    if rng.random() < 0.7:
        status = rng.choice(("200", "200", "200", "500", "101", "404"))
        response_headers = pb.HttpHeaders(headers=_headers({":status": status, "content-type": content_type}))
        envoy_messages.append(pb.ProcessingRequest(response_headers=response_headers))
        envoy_messages += [
            pb.ProcessingRequest(response_body=pb.HttpBody(body=piece)) for piece in _pieces(rng, response)
        ]
        envoy_messages.append(pb.ProcessingRequest(response_trailers=pb.HttpTrailers()))
    return [message.SerializeToString() for message in envoy_messages]


class Proxy:
    """Feeds one connection. A `conforming` proxy follows HTTP/2 and gRPC; its messages may still be out of order."""

    def __init__(
        self, rng: Random, create_calls: Callable[[Connection], CallDispatcher], connection: Connection
    ) -> None:
        self._rng = rng
        self.connection = connection
        self.calls = create_calls(connection)
        self.conforming = rng.random() < 0.6
        self.lost = False
        self.streams = 0
        self.messages = 0
        self._next_id = 1
        self._pending: dict[int, list[bytes]] = {}
        """Frames of each request that are not sent yet."""
        # A non-conforming proxy may never open its windows.
        window = (
            {} if self.conforming or rng.random() < 0.7 else {frames.Setting.INITIAL_WINDOW_SIZE: rng.choice((0, 7))}
        )
        preface = frames.PREFACE + frames.settings_frame(window) + frames.frame(frames.SETTINGS, frames.ACK, 0)
        self._unsent = preface + frames.window_update(0, 1 << 30)

    def step(self, now_s: float) -> None:
        """Starts or continues a request, or does something unusual."""
        chance = self._rng.random()
        if chance < 0.3:
            self._begin()
        elif chance < 0.85:
            self._continue()
        elif chance < 0.9 and self._pending:
            stream_id = self._rng.choice(list(self._pending))
            del self._pending[stream_id]
            self._unsent += frames.rst_stream(stream_id, frames.ErrorCode.CANCEL)
        elif chance < 0.93:
            self._unsent += frames.frame(frames.PING, 0, 0, b"12345678")
        elif not self.conforming:
            self._misbehave()
        if self._rng.random() < 0.7:
            self.flush(now_s)

    def flush(self, now_s: float) -> None:
        """Delivers the unsent bytes, split as a socket may split them."""
        data, self._unsent = self._unsent, b""
        for piece in _pieces(self._rng, data) if self._rng.random() < 0.1 else (data,):
            self.calls.receive(piece, now_s)
        for frame_type, stream_id in _sent_frames(self.connection.data_to_send()):
            if frame_type == frames.RST_STREAM:
                self._pending.pop(stream_id, None)
        if self.connection.closed:
            self.lose()

    def lose(self) -> None:
        """Closes the connection."""
        self.lost = True
        self._pending.clear()
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
        envoy_messages = [b""] if health else messages(rng)
        if not self.conforming and rng.random() < 0.3:
            rng.shuffle(envoy_messages)
        self.messages += len(envoy_messages)
        if rng.random() < 0.3:
            fields.append(("traceparent", f"00-{rng.getrandbits(128):032x}-{rng.getrandbits(64):016x}-01"))
        block = (b"\x20" if rng.random() < 0.7 else b"") + encode_headers(fields)
        if rng.random() < 0.1:
            half = len(block) // 2
            pending = [
                frames.frame(frames.HEADERS, 0, stream_id, block[:half])
                + frames.frame(frames.CONTINUATION, frames.END_HEADERS, stream_id, block[half:])
            ]
        else:
            pending = [frames.frame(frames.HEADERS, frames.END_HEADERS, stream_id, block)]
        for message in envoy_messages:
            data = framed(message)
            size = rng.choice((16_384, 16_384, 16_384, 4_000, 5))
            size = max(size, len(data) // 50)
            size = min(size, 16_384)
            pending += [
                frames.frame(frames.DATA, 0, stream_id, data[at : at + size]) for at in range(0, len(data), size)
            ]
        if rng.random() < 0.8:
            pending.append(frames.frame(frames.DATA, frames.END_STREAM, stream_id))
        self._pending[stream_id] = pending[1:]
        self._unsent += pending[0]

    def _continue(self) -> None:
        if not self._pending:
            return
        stream_id = self._rng.choice(list(self._pending))
        pending = self._pending[stream_id]
        count = self._rng.choice((1, 2, len(pending)))
        self._unsent += b"".join(pending[:count])
        del pending[:count]
        if not pending:
            del self._pending[stream_id]

    def _misbehave(self) -> None:
        rng = self._rng
        match rng.randrange(5):
            case 0 if self._unsent:
                index = rng.randrange(len(self._unsent))
                data = bytearray(self._unsent)
                data[index] ^= 1 << rng.randrange(8)
                self._unsent = bytes(data)
            case 1:
                frame_type, flags = rng.randrange(11), rng.randrange(256)
                self._unsent += frames.frame(
                    frame_type, flags, rng.randrange(self._next_id + 4), rng.randbytes(rng.randrange(40))
                )
            case 2 if self._pending:
                # A message begins and is never completed.
                self._unsent += frames.frame(
                    frames.DATA, 0, rng.choice(list(self._pending)), b"\0\0\x0f\xff\xff" + b"x" * 9_000
                )
            case 3 if self._pending:
                pending = rng.choice(list(self._pending.values()))
                pending.insert(rng.randrange(len(pending) + 1), rng.choice(pending))
            case _:
                self._unsent += self._unsent[: rng.randrange(200)]


def _sent_frames(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields type and stream of each frame that the picker sent. Fails if the last frame is incomplete."""
    at = 0
    while at < len(data):
        high, low, frame_type, _, stream_id = frames.read_header(data, at)
        at += frames.HEADER_BYTES + (high << 8 | low)
        yield frame_type, stream_id
    assert at == len(data), "the picker has written an incomplete frame"
