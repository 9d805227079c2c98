"""Whole picks over HTTP/2 as Envoy requests them, with all parts of the picker but the socket."""

import json
from collections.abc import Sequence
from random import Random

from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from fleet import endpoint
from gateway_objects import pool, resources
from http2_peer import REQUEST
from picker.endpoints.endpoint import Endpoint
from picker.endpoints.in_flight import InFlightTracker
from picker.endpoints.prefix_cache.index import PrefixIndex
from picker.extproc.exchange import Exchange, Limits
from picker.extproc.stream import PROCESS, process
from picker.grpc_server.call import Call
from picker.grpc_server.calls import CallDispatcher
from picker.grpc_server.deadlines import Deadlines
from picker.grpc_server.framing import framed
from picker.grpc_server.http2 import frames
from picker.grpc_server.http2.connection import Connection
from picker.grpc_server.http2.headers import HeaderBlockCache, encode_headers
from picker.requestcontrol.director import BLOCK_TOKENS, Director
from picker.requestcontrol.request_observer import RequestObserver
from picker.requestcontrol.served_pool import ServedPool
from picker.resources.inference import RoutingStrategy
from picker.scheduling.scheduler import Scheduler
from wire_messages import body_message, headers_message

POOL = "inference.networking.x-k8s.io/default/a"


def served_pool(endpoints: list[Endpoint], strategy: RoutingStrategy = RoutingStrategy.DEFAULT) -> ServedPool:
    [inference_pool] = resources(pool("a")).pools.values()
    prefixes = PrefixIndex(BLOCK_TOKENS)
    return ServedPool(inference_pool, {}, endpoints, Scheduler(strategy, prefixes, Random(1)), prefixes)


def pool_director(endpoints: int = 8, observers: Sequence[RequestObserver] = ()) -> Director:
    director = Director(InFlightTracker(), lambda: 1.0, Random(1), unknown_models=True, observers=observers)
    served = served_pool([endpoint(number, running=3) for number in range(endpoints)])
    director.serve([served], served.pool.name)
    return director


class PickStream:
    """One connection. `pick` begins and ends a request on it."""

    def __init__(self, director: Director, prompt_bytes: int = 2000) -> None:
        self._connection = Connection(HeaderBlockCache())
        deadlines: Deadlines[Call] = Deadlines()
        methods = {PROCESS: process(lambda: Exchange(director, Limits()))}
        self._calls = CallDispatcher(self._connection, methods, deadlines, lambda: None)
        preface = frames.PREFACE + frames.settings_frame({}) + frames.frame(frames.SETTINGS, frames.ACK, 0)
        unlimited = frames.frame(frames.WINDOW_UPDATE, 0, 0, (1 << 30).to_bytes(4, "big"))
        self._calls.receive(preface + unlimited, 0.0)
        call_headers = dict(REQUEST) | {":path": PROCESS, "x-inference-pool": POOL}
        # Envoy sends this size update because the picker's SETTINGS disable the dynamic table. The picker can then
        # cache header blocks by their bytes.
        dynamic_table_disabled = b"\x20"
        self._call_headers = dynamic_table_disabled + encode_headers(list(call_headers.items()))
        self._headers = framed(_headers())
        text = "".join(Random(2).choices("abcdefgh ", k=prompt_bytes))
        self._body = framed(body_message(json.dumps({"model": "qwen", "prompt": text, "max_tokens": 100}).encode()))
        self._response = framed(_response_headers())
        self._stream_id = -1

    def pick(self) -> bytes:
        """Sends a request. Returns the bytes of the picker's replies to its headers and body."""
        self._stream_id += 2
        stream_id, receive = self._stream_id, self._calls.receive
        receive(frames.frame(frames.HEADERS, frames.END_HEADERS, stream_id, self._call_headers), 0.0)
        receive(frames.frame(frames.DATA, 0, stream_id, self._headers), 0.0)
        receive(frames.frame(frames.DATA, 0, stream_id, self._body), 0.0)
        replies = self._connection.data_to_send()
        receive(frames.frame(frames.DATA, 0, stream_id, self._response), 0.0)
        self._connection.data_to_send()
        receive(frames.frame(frames.DATA, frames.END_STREAM, stream_id, b""), 0.0)
        self._connection.data_to_send()
        return replies


def _response_headers() -> bytes:
    """The response headers of a stream of tokens."""
    named = {":status": "200", "content-type": "text/event-stream", "server": "uvicorn", "date": "Sun, 06 Nov 1994"}
    headers = [base_pb2.HeaderValue(key=key, raw_value=value.encode()) for key, value in named.items()]
    return pb.ProcessingRequest(
        response_headers=pb.HttpHeaders(headers=base_pb2.HeaderMap(headers=headers))
    ).SerializeToString()


def _headers() -> bytes:
    """Request headers with those that an OpenAI client and Envoy add."""
    more = {
        ":scheme": "http", ":authority": "gateway:8081", "user_agent": "AsyncOpenAI/Python 2.1", "accept": "*/*",
        "accept_encoding": "gzip", "authorization": "Bearer " + "k" * 40, "content_type": "application/json",
        "content_length": "2050", "x_request_id": "c1a2b3c4-0000-4000-8000-000000000000", "x_forwarded_for": "10.1.1.1",
        "x_forwarded_proto": "http", "x_envoy_expected_rq_timeout_ms": "15000",
    }  # fmt: skip
    message = headers_message(**more)
    assert pb.ProcessingRequest.FromString(message).WhichOneof("request") == "request_headers"
    return message
