"""Many requests over one connection leave no memory and no reference cycles behind."""

import gc
import tracemalloc

from exchange_conversation import FakeDirector
from http2_peer import REQUEST, data, headers
from picker.extproc.exchange import Exchange, Limits
from picker.extproc.stream import PROCESS, process
from picker.grpc_server.call import Call
from picker.grpc_server.calls import CallDispatcher
from picker.grpc_server.deadlines import Deadlines
from picker.grpc_server.framing import framed
from picker.grpc_server.http2 import frames
from picker.grpc_server.http2.connection import Connection
from picker.grpc_server.http2.frames import ErrorCode
from picker.grpc_server.http2.headers import HeaderBlockCache
from picker.rejection import Rejection
from picker.requestcontrol.in_flight_request import InFlightRequest
from picker.requestcontrol.pick_request import PickRequest
from wire_messages import body_message, headers_message

FIELDS = [(":path", PROCESS) if name == ":path" else (name, value) for name, value in REQUEST]
HEADERS = framed(headers_message(content_type="application/json"))
BODY = framed(body_message(b'{"model": "m", "prompt": "' + b"word " * 100 + b'"}'))


class UnrecordedDirector(FakeDirector):
    """A director that does not record its calls."""

    def assign(self, request: PickRequest) -> InFlightRequest | Rejection:
        self.requests.clear()
        self.ends.clear()
        self.rejections.clear()
        return super().assign(request)


class Served:
    """A connection whose client ends, resets or breaks its streams."""

    def __init__(self) -> None:
        self.deadlines: Deadlines[Call] = Deadlines()
        director = UnrecordedDirector()
        methods = {PROCESS: process(lambda: Exchange(director, Limits()))}
        self.connection = Connection(HeaderBlockCache())
        self.calls = CallDispatcher(self.connection, methods, self.deadlines, lambda: None)
        self.calls.receive(frames.PREFACE + frames.settings_frame({}) + frames.frame(frames.SETTINGS, frames.ACK, 0), 0)
        self.number = 0

    def requests(self, count: int) -> None:
        for number in range(self.number, self.number + count):
            stream_id = 2 * number + 1
            match number % 4:
                case 0 | 1:
                    then = data(stream_id, BODY) + data(stream_id, b"", end=True)
                case 2:
                    then = data(stream_id, BODY) + frames.rst_stream(stream_id, ErrorCode.CANCEL)
                case _:
                    then = data(stream_id, b"\1\0\0\0\1x")
            for sent in (headers(stream_id, FIELDS) + data(stream_id, HEADERS), then + frames.window_update(0, 2_000)):
                self.calls.receive(sent, number / 1_000)
                self.connection.data_to_send()
        self.number += count


def test_memory_is_flat_and_no_cycles_are_made() -> None:
    """The first requests fill the record of closed streams. 2,000 more add fewer bytes than any object for each
    would. A dictionary may double once meanwhile."""
    served = Served()
    served.requests(200)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        served.requests(2_200)
        before, _ = tracemalloc.get_traced_memory()
        served.requests(2_000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    cycles = gc.collect()
    assert not served.connection.closed
    assert len(served.deadlines) == 0
    assert after - before < 2_000 * 20, f"{after - before} bytes more"
    assert cycles < 100
